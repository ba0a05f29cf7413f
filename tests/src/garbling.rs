//! What no client writes: short strings that are no UTF-8. AMQP lets them through.

use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A way to the broker, for one connection, on which a text turns into bytes that are none.
pub async fn garbling(uri: &str, text: &'static [u8]) -> String {
    let at: AMQPUri = uri.parse().expect("an address");
    let to = (at.authority.host.clone(), at.authority.port);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.expect("a client");
        let far = TcpStream::connect(to).await.expect("the broker");
        let ((mut down, mut up), (mut far_down, mut far_up)) =
            (near.into_split(), far.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut far_down, &mut up).await });
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(size @ 1..) = down.read(&mut bytes).await {
            let bytes = &mut bytes[..size];
            for at in 0..size.saturating_sub(text.len() - 1) {
                if bytes[at..].starts_with(text) {
                    bytes[at..at + text.len()].fill(0xFF);
                }
            }
            if far_up.write_all(bytes).await.is_err() {
                return;
            }
        }
    });
    let AMQPUri {
        authority, vhost, ..
    } = at;
    let user = authority.userinfo;
    format!(
        "amqp://{}:{}@127.0.0.1:{port}/{}",
        user.username,
        user.password,
        vhost.replace('/', "%2f")
    )
}

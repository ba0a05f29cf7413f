//! A broker's product and version as its `connection.start` has them.

use crate::frames::{CONNECTION_START, Frame};
use crate::socket::Socket;
use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection::AMQPMethod};
use amq_protocol::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri};
use std::io;
use std::time::Duration;

/// A broker by its name. The embedded one introduces itself as the RabbitMQ that it stands in for,
/// and names itself in the property `implementation`, which is what counts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub product: String,
    pub version: String,
}

/// Asks the broker at `uri`, within five seconds. Nobody logs in.
pub async fn greeting(uri: &str) -> io::Result<Greeting> {
    let address: AMQPUri = uri.parse().map_err(io::Error::other)?;
    if address.scheme == AMQPScheme::AMQPS {
        return Ok(Greeting {
            product: "RabbitMQ".into(),
            version: "(not asked over TLS)".into(),
        });
    }
    let start = tokio::time::timeout(Duration::from_secs(5), first_frame(uri)).await??;
    let bytes = start.encode();
    let Ok((_, AMQPFrame::Method(_, AMQPClass::Connection(AMQPMethod::Start(start))))) =
        parse_frame(&bytes[..])
    else {
        return Err(io::Error::other(
            "the broker's connection.start does not parse",
        ));
    };
    Ok(introduced(&start.server_properties))
}

fn introduced(properties: &FieldTable) -> Greeting {
    let text = |key: &str| match properties.inner().get(key) {
        Some(AMQPValue::LongString(value)) => Ok(value.to_string()),
        other => Err(format!("({key}: {other:?})")),
    };
    let implementation = text("implementation").ok();
    match implementation
        .as_deref()
        .and_then(|own| own.split_once(' '))
    {
        Some((product, version)) => Greeting {
            product: product.to_owned(),
            version: version.to_owned(),
        },
        None => Greeting {
            product: text("product").unwrap_or_else(|found| found),
            version: text("version").unwrap_or_else(|found| found),
        },
    }
}

async fn first_frame(uri: &str) -> io::Result<Frame> {
    let mut socket = Socket::try_dial(uri).await?;
    match socket.next().await {
        Some(frame) if frame.method() == Some(CONNECTION_START) => Ok(frame),
        Some(_) => Err(io::Error::other(
            "the broker did not begin with connection.start",
        )),
        None => Err(io::Error::other(
            "the broker hung up on the protocol header",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_embedded_broker_is_told_from_rabbitmq() {
        let broker = lepus_broker::Broker::start().await.unwrap();
        let found = greeting(&broker.uri()).await.unwrap();
        assert_eq!(found.product, "lepus-broker");
        assert_eq!(found.version, env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn a_broker_without_a_name_of_its_own_is_its_product() {
        let mut properties = FieldTable::default();
        properties.insert("product".into(), AMQPValue::LongString("RabbitMQ".into()));
        let found = introduced(&properties);
        assert_eq!(found.product, "RabbitMQ");
        assert_eq!(found.version, "(version: None)");
    }

    #[tokio::test]
    async fn what_is_no_broker_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("amqp://{}", listener.local_addr().unwrap());
        let http = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"\x01\0\0\0\0\0\x04\0\x0a\0\x0b\xCE")
                .await
                .unwrap();
        });
        let error = greeting(&uri).await.unwrap_err();
        assert!(error.to_string().contains("did not begin with"), "{error}");
        http.await.unwrap();
        greeting("amqp://127.0.0.1:1").await.unwrap_err();
    }
}

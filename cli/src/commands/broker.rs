//! `broker`: the embedded broker, for first tries and tests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use lepus_broker::Broker as Embedded;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::{Failure, with_causes};
use crate::output::note;

/// AMQP's port.
const PORT: u16 = 5672;

/// Serves a broker in memory, which behaves like RabbitMQ, until Ctrl-C
///
/// For first tries, development and tests: its messages are gone when it ends. The user is guest with the password guest,
/// so everybody who reaches the address may use it.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus broker
  lepus broker :5673
  lepus broker 127.0.0.1:0 &")]
pub(crate) struct Broker {
    /// Address and port to listen on; port 0 is any free port
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:5672", value_parser = address)]
    address: SocketAddr,
}

impl Broker {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        // Before the address is printed: a signal that arrives earlier would end the program at once.
        let stop = lepus::shutdown_signal();
        let broker = Embedded::builder().address(self.address).start().await;
        let broker = broker.map_err(|error| Failure::new(Exit::Connect, with_causes(&error)))?;
        let served = broker.address();
        if !served.ip().is_loopback() {
            note(
                "warning: others can reach this address, and log in as guest with the password guest",
            );
        }
        app.out.text(&format!("serving amqp://{served}"))?;
        stop.await;
        broker.shutdown().await;
        Ok(Exit::Ok)
    }
}

/// `127.0.0.1:5673`, `:5673`, `5673`, `127.0.0.1` and `[::1]:5673` are addresses.
fn address(text: &str) -> Result<SocketAddr, String> {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = text.strip_prefix(':').unwrap_or(text).parse();
    if let Ok(port) = port {
        return Ok(SocketAddr::new(localhost, port));
    }
    if let Ok(ip) = text.parse() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    let text = text.replace("localhost:", "127.0.0.1:");
    text.parse()
        .map_err(|_| "write an IP address and a port, such as 127.0.0.1:5672 or :5672".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_short() {
        let cases = [
            (":5673", "127.0.0.1:5673"),
            ("5673", "127.0.0.1:5673"),
            ("0.0.0.0", "0.0.0.0:5672"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:5673", "[::1]:5673"),
        ];
        for (text, parsed) in cases {
            assert_eq!(address(text), Ok(parsed.parse().unwrap()), "{text}");
        }
        for wrong in ["", ":", "host:5672", "127.0.0.1:99999"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}

//! What goes wrong, drawn from the dice; and the end of it.

use crate::book::Book;
use crate::dice::Dice;
use lapin::BasicProperties;
use lepus_tests::proxy::{Cut, Mode, Proxy, Slow, Way};
use lepus_tests::raw::Raw;
use std::sync::Arc;
use std::time::Duration;

/// Breaks what runs through one proxy, again and again, until it is dropped.
pub async fn haunt(proxy: Arc<Proxy>, mut dice: Dice, book: Arc<Book>) {
    loop {
        tokio::time::sleep(dice.millis(50, 1_200)).await;
        let short = dice.millis(20, 500);
        // Two heartbeats and more: some are found dead.
        let long = dice.millis(500, 4_000);
        match dice.below(12) {
            0..3 => {
                book.fault("cut by FIN");
                proxy.cut(Cut::Fin);
            }
            3..6 => {
                book.fault("cut by RST");
                proxy.cut(Cut::Rst);
            }
            6 => {
                book.fault("stalled up");
                stall(&proxy, &[Way::Up], short).await;
            }
            7 => {
                book.fault("stalled down");
                stall(&proxy, &[Way::Down], short).await;
            }
            8 => {
                book.fault("half-open");
                stall(&proxy, &[Way::Up, Way::Down], long).await;
            }
            9 => {
                book.fault("stalled up and cut");
                proxy.stall(Way::Up);
                tokio::time::sleep(short).await;
                proxy.cut(Cut::Rst);
                proxy.resume();
            }
            10 => {
                book.fault("away");
                let modes = [Mode::Refuse, Mode::AcceptThenClose, Mode::AcceptSilent];
                let which = usize::try_from(dice.below(3)).expect("small");
                proxy.set(modes[which]).await;
                proxy.cut(Cut::Rst);
                tokio::time::sleep(long.min(Duration::from_secs(2))).await;
                proxy.up().await;
            }
            _ => {
                book.fault("slow");
                proxy.slow(Some(Slow {
                    delay: Duration::from_millis(5),
                    piece: 4_096,
                }));
                tokio::time::sleep(short).await;
                proxy.slow(None);
            }
        }
    }
}

async fn stall(proxy: &Proxy, ways: &[Way], time: Duration) {
    for way in ways {
        proxy.stall(*way);
    }
    tokio::time::sleep(time).await;
    proxy.resume();
}

/// No more faults, and everything through this proxy passes.
pub async fn heal(proxy: &Proxy) {
    proxy.slow(None);
    proxy.resume();
    proxy.up().await;
}

/// Sends rubbish, and deletes the queue of the service.
pub async fn vandalise(raw: Raw, service: String, jobs: String, mut dice: Dice, book: Arc<Book>) {
    loop {
        tokio::time::sleep(dice.millis(200, 1_500)).await;
        let length = dice.below(200);
        let rubbish: Vec<u8> = (0..length)
            .map(|_| u8::try_from(dice.below(256)).expect("a byte"))
            .collect();
        match dice.below(6) {
            0 => {
                book.fault("service queue deleted");
                raw.delete(&service).await;
            }
            1 | 2 => {
                book.fault("garbage job");
                let sent = raw.publish_with("", &jobs, &rubbish, BasicProperties::default());
                sent.await.expect("a confirm");
            }
            _ => {
                book.fault("garbage request");
                let properties = BasicProperties::default()
                    .with_reply_to("nobody".into())
                    .with_type("plain".into());
                let sent = raw.publish_with("", &service, &rubbish, properties);
                sent.await.expect("a confirm");
            }
        }
    }
}

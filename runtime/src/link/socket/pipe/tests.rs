//! Pipe tests: the stream, read and written as lapin does.

use std::task::Waker;

use super::super::testing::{PROTOCOL_HEADER, Woken, arrives, lapin_reads, wire};
use super::*;

#[tokio::test]
async fn bytes_are_read_in_order_until_the_end() {
    let (mux, _transport, _peer) = wire().await;
    let inbound = Arc::<InboundBuffer>::default();
    let mut pipe = Pipe::new(mux, Arc::clone(&inbound));
    assert_eq!(lapin_reads(&mut pipe), (Vec::new(), false));
    inbound.push(b"some ").unwrap();
    inbound.push(b"bytes").unwrap();
    let mut three = [0; 3];
    let mut context = Context::from_waker(Waker::noop());
    let read = Pin::new(&mut pipe).poll_read(&mut context, &mut three);
    assert!(matches!(read, Poll::Ready(Ok(3))));
    assert_eq!(&three, b"som");
    inbound.push(b"!").unwrap();
    inbound.close();
    assert_eq!(lapin_reads(&mut pipe), (b"e bytes!".to_vec(), true));
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_bytes_and_by_the_end() {
    let (mux, _transport, _peer) = wire().await;
    let inbound = Arc::<InboundBuffer>::default();
    let mut pipe = Pipe::new(mux, Arc::clone(&inbound));
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut read = |pipe: &mut Pipe| {
        let read = Pin::new(pipe).poll_read(&mut context, &mut [0; 16]);
        assert!(read.is_pending());
    };
    read(&mut pipe);
    inbound.push(b"x").unwrap();
    assert_eq!(woken.times(), 1);
    lapin_reads(&mut pipe);
    read(&mut pipe);
    inbound.close();
    assert_eq!(woken.times(), 2);
    assert_eq!(lapin_reads(&mut pipe), (Vec::new(), true));
}

#[tokio::test]
async fn unread_bytes_are_bounded() {
    let inbound = InboundBuffer::default();
    let frame = [0; 1000];
    let given = (0..).take_while(|_| inbound.push(&frame).is_ok()).count();
    assert!(given >= MAX_UNREAD / frame.len(), "{given}");
    assert!(inbound.state().bytes.capacity() <= 4 * MAX_UNREAD);
}

#[tokio::test]
async fn dropping_the_pipe_closes_the_connection() {
    let (mux, _transport, mut peer) = wire().await;
    let mut pipe = Pipe::new(mux.clone(), Arc::default());
    let mut context = Context::from_waker(Waker::noop());
    let written = Pin::new(&mut pipe).poll_write(&mut context, PROTOCOL_HEADER);
    assert!(matches!(written, Poll::Ready(Ok(8))));
    assert!(matches!(
        Pin::new(&mut pipe).poll_flush(&mut context),
        Poll::Ready(Ok(()))
    ));
    // `poll_close` has no effect: lapin may still read. Only the drop closes.
    assert!(matches!(
        Pin::new(&mut pipe).poll_close(&mut context),
        Poll::Ready(Ok(()))
    ));
    assert!(!mux.is_closed());
    drop(pipe);
    assert!(mux.is_closed());
    arrives(&mut peer, &[PROTOCOL_HEADER]);
    let mut pipe = Pipe::new(mux, Arc::default());
    let written = Pin::new(&mut pipe).poll_write(&mut context, PROTOCOL_HEADER);
    assert!(matches!(written, Poll::Ready(Err(_))));
}

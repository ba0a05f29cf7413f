//! Write buffer tests: both writers on one socket, without the I/O task.

use bytes::BufMut;
use futures_util::FutureExt;
use std::net::{Shutdown, TcpStream as Peer};

use super::super::testing::{
    HEARTBEAT, PROTOCOL_HEADER, WANTED, Woken, arrives, frame, negotiate, nothing_arrives, sockets,
    tune, wire,
};
use super::super::transport::Transport;
use super::*;

fn put(mux: &WriteMux, flush: Flush, frame: &[u8]) -> WriteOffset {
    let put = mux.append(flush, |out| {
        out.put_slice(frame);
        Ok(())
    });
    put.unwrap()
}

/// Appends frames until the socket accepts no more and the buffer is above its high-water mark. Returns
/// the number of bytes.
fn fill(mux: &WriteMux) -> usize {
    let large = frame(3, 1, &vec![7; 256 * 1024]);
    let mut size = 0;
    while mux.has_room() {
        put(mux, Flush::Inline, &large);
        size += large.len();
    }
    size
}

/// Reads `size` bytes at the peer, while the buffer is written as the I/O task does it.
async fn drain(mux: &WriteMux, transport: &TransportWriter, peer: &Peer, size: usize) {
    use std::io::Read;
    let mut peer = peer.try_clone().unwrap();
    let reading = std::thread::spawn(move || peer.read_exact(&mut vec![0; size]).unwrap());
    while !mux.try_flush().unwrap() {
        transport.writable().await.unwrap();
    }
    reading.join().unwrap();
}

#[tokio::test]
async fn frames_are_written_in_the_order_of_appending() {
    let (mux, _transport, mut peer) = wire().await;
    let (own, lapins) = (frame(3, 7, b"own"), frame(1, 0, b"lapin's"));
    mux.append_from_lapin(PROTOCOL_HEADER).unwrap();
    put(&mux, Flush::Deferred, &own);
    mux.append_from_lapin(&lapins).unwrap();
    put(&mux, Flush::Inline, &own);
    arrives(&mut peer, &[PROTOCOL_HEADER, &own, &lapins, &own]);
    assert!(mux.state().is_drained());
}

#[tokio::test]
async fn a_frame_of_lapin_is_appended_when_it_is_complete() {
    let (own, lapins) = (frame(3, 7, b"own"), frame(1, 0, b"lapin's"));
    let stream = [PROTOCOL_HEADER, &lapins, HEARTBEAT, &lapins].concat();
    for cut in 1..stream.len() {
        let (mux, _transport, mut peer) = wire().await;
        for part in stream.chunks(cut) {
            assert_eq!(mux.append_from_lapin(part).unwrap(), part.len());
            // Our frames come in between.
            put(&mux, Flush::Inline, &own);
        }
        let mut expected: Vec<&[u8]> = Vec::new();
        let ends = [8, 8 + lapins.len(), 16 + lapins.len(), stream.len()];
        let whole = [PROTOCOL_HEADER, &lapins, HEARTBEAT, &lapins];
        let mut passed = 0;
        for part in stream.chunks(cut) {
            let now = passed..passed + part.len();
            let ended = whole
                .iter()
                .zip(ends)
                .filter(|(_, end)| now.start < *end && *end <= now.end);
            expected.extend(ended.map(|(frame, _)| *frame));
            expected.push(&own);
            passed += part.len();
        }
        arrives(&mut peer, &expected);
        assert!(mux.state().lapin_partial.is_empty());
    }
}

#[tokio::test]
async fn the_limits_in_lapins_tune_ok_are_replaced_however_it_is_cut() {
    for cut in 1..20 {
        let (mux, _transport, mut peer) = wire().await;
        mux.observe(&tune(30, 2047, 131_072, 60));
        mux.append_from_lapin(PROTOCOL_HEADER).unwrap();
        assert_eq!(mux.negotiated(), None);
        for part in tune(31, 1, 16_384, 10).chunks(cut) {
            mux.append_from_lapin(part).unwrap();
        }
        arrives(&mut peer, &[PROTOCOL_HEADER, &tune(31, 2047, 131_072, 10)]);
        assert_eq!(mux.negotiated().map(|tune| tune.heartbeat), Some(10));
    }
}

#[tokio::test]
async fn a_failed_append_appends_nothing() {
    let (mux, _transport, mut peer) = wire().await;
    let own = frame(3, 7, b"own");
    put(&mux, Flush::Deferred, &own);
    let refused = mux.append(Flush::Inline, |out| {
        out.put_slice(b"half a frame");
        Err(Error::invalid("no"))
    });
    assert!(refused.unwrap_err().is_invalid());
    // It does not write the deferred frame either.
    nothing_arrives(&mut peer);
    assert!(mux.woken().now_or_never().is_none());
    let offset = put(&mux, Flush::Inline, &own);
    arrives(&mut peer, &[&own, &own]);
    assert_eq!(offset.0, 2 * own.len() as u64);
}

#[tokio::test]
async fn deferred_frames_wait_for_a_flush() {
    let (mux, _transport, mut peer) = wire().await;
    let own = frame(3, 7, b"own");
    let later = put(&mux, Flush::Deferred, &own);
    assert!(mux.flushed(later).now_or_never().is_none());
    assert!(mux.woken().now_or_never().is_none());
    nothing_arrives(&mut peer);
    mux.flush();
    assert!(mux.flushed(later).now_or_never().unwrap().is_ok());
    arrives(&mut peer, &[&own]);
    // The I/O task is woken.
    let soon = put(&mux, Flush::IoTask, &own);
    nothing_arrives(&mut peer);
    assert!(mux.woken().now_or_never().is_some());
    assert!(mux.try_flush().unwrap());
    assert!(mux.flushed(soon).now_or_never().unwrap().is_ok());
    arrives(&mut peer, &[&own]);
}

#[tokio::test]
async fn a_write_wakes_everyone_who_waits_and_nobody_whose_future_was_dropped() {
    let (mux, _transport, mut peer) = wire().await;
    let own = frame(3, 7, b"own");
    let offset = put(&mux, Flush::Deferred, &own);
    let woken: [Arc<Woken>; 3] = Default::default();
    let mut waiting = [
        mux.flushed(offset),
        mux.flushed(offset),
        mux.flushed(offset),
    ];
    for (written, woken) in waiting.iter_mut().zip(&woken) {
        let waker = Waker::from(Arc::clone(woken));
        let mut context = Context::from_waker(&waker);
        // A second poll replaces the waker of the first.
        for _ in 0..2 {
            assert!(Pin::new(&mut *written).poll(&mut context).is_pending());
        }
    }
    let [first, second, gone] = waiting;
    drop(gone);
    assert_eq!(mux.state().waiters.len(), 2);
    mux.flush();
    let times = woken.each_ref().map(|woken| woken.times());
    assert_eq!(times, [1, 1, 0]);
    assert!(first.now_or_never().unwrap().is_ok());
    assert!(second.now_or_never().unwrap().is_ok());
    arrives(&mut peer, &[&own]);
    assert!(mux.state().waiters.is_empty());
}

#[tokio::test]
async fn publishers_wait_above_the_high_water_mark() {
    let (mux, transport, mut peer) = wire().await;
    assert!(mux.has_room());
    assert!(mux.room().now_or_never().is_some());
    let size = fill(&mux);
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut room = std::pin::pin!(mux.room());
    assert!(room.as_mut().poll(&mut context).is_pending());
    assert!(!mux.has_room());
    // The mark holds publishers back that ask: a frame is appended in any case.
    let own = frame(3, 7, b"own");
    let offset = put(&mux, Flush::Inline, &own);
    assert!(mux.flushed(offset).now_or_never().is_none());
    drain(&mux, &transport, &peer, size).await;
    assert!(woken.times() > 0);
    assert!(room.as_mut().poll(&mut context).is_ready());
    assert!(mux.has_room() && mux.flushed(offset).now_or_never().unwrap().is_ok());
    arrives(&mut peer, &[&own]);
    // The memory of the backlog is released.
    let state = mux.state();
    assert!(state.is_drained() && state.out.capacity() <= MAX_IDLE_CAPACITY);
    assert_eq!((state.appended, state.written), (offset.0, offset.0));
}

#[tokio::test]
async fn a_close_wakes_everyone_and_later_appends_fail() {
    let (mux, _transport, peer) = wire().await;
    fill(&mux);
    let own = frame(3, 7, b"own");
    let offset = put(&mux, Flush::Inline, &own);
    let woken: [Arc<Woken>; 2] = Default::default();
    let wakers = woken.each_ref().map(|woken| Waker::from(Arc::clone(woken)));
    let mut written = mux.flushed(offset);
    let mut room = std::pin::pin!(mux.room());
    let mut context = Context::from_waker(&wakers[0]);
    assert!(Pin::new(&mut written).poll(&mut context).is_pending());
    let mut context = Context::from_waker(&wakers[1]);
    assert!(room.as_mut().poll(&mut context).is_pending());
    assert!(!mux.is_closed());
    mux.close();
    mux.close();
    assert!(mux.is_closed());
    assert!(woken.iter().all(|woken| woken.times() > 0));
    let lost = written.now_or_never().unwrap().unwrap_err();
    assert!(lost.is_disconnected(), "{lost}");
    assert!(room.as_mut().poll(&mut context).is_ready());
    assert!(
        mux.woken().now_or_never().is_some(),
        "the task goes as well"
    );
    let refused = mux.append(Flush::Inline, |_| Ok(())).unwrap_err();
    assert!(refused.is_disconnected(), "{refused}");
    assert!(mux.append_from_lapin(PROTOCOL_HEADER).is_err());
    mux.heartbeat();
    mux.flush();
    assert!(mux.try_flush().unwrap() && mux.has_room());
    assert_eq!(mux.state().out.capacity(), 0);
    peer.shutdown(Shutdown::Both).unwrap();
}

#[tokio::test]
async fn a_close_writes_what_the_socket_accepts() {
    let (mux, _transport, mut peer) = wire().await;
    let own = frame(3, 7, b"own");
    let offset = put(&mux, Flush::Deferred, &own);
    mux.close();
    assert!(mux.flushed(offset).now_or_never().unwrap().is_ok());
    arrives(&mut peer, &[&own]);
}

#[tokio::test]
async fn a_heartbeat_is_written_only_if_nothing_else_waits() {
    let (mux, _transport, mut peer) = wire().await;
    negotiate(&mux, &mut peer, 2047, 131_072, 60);
    let before = mux.bytes_written();
    mux.heartbeat();
    arrives(&mut peer, &[HEARTBEAT]);
    assert_eq!(mux.bytes_written(), before + 8);
    let own = frame(3, 7, b"own");
    put(&mux, Flush::Deferred, &own);
    mux.heartbeat();
    mux.flush();
    arrives(&mut peer, &[&own]);
    nothing_arrives(&mut peer);
}

#[test]
fn messages_in_quick_succession_are_a_burst() {
    let bursts = BurstDetector::default();
    assert_eq!(bursts.next(), Flush::Inline);
    let early = Instant::now() + Duration::from_secs(60);
    *bursts.last.lock().unwrap() = Some(early);
    assert_eq!(bursts.next(), Flush::IoTask);
    *bursts.last.lock().unwrap() = Instant::now().checked_sub(BURST);
    assert_eq!(bursts.next(), Flush::Inline);
}

#[tokio::test]
async fn a_write_wakes_only_those_whose_offset_it_has_reached() {
    let (mux, transport, peer) = wire().await;
    let size = fill(&mux);
    let next = WriteOffset(mux.bytes_written() + 1);
    let never = WriteOffset(size as u64 + 1);
    let woken: [Arc<Woken>; 2] = Default::default();
    let mut waiting = [mux.flushed(next), mux.flushed(never)];
    for (flushed, woken) in waiting.iter_mut().zip(&woken) {
        let waker = Waker::from(Arc::clone(woken));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(flushed).poll(&mut context).is_pending());
    }
    drain(&mux, &transport, &peer, size).await;
    let times = woken.each_ref().map(|woken| woken.times());
    assert_eq!(times, [1, 0]);
    let [next, never] = waiting;
    assert!(next.now_or_never().unwrap().is_ok());
    assert!(never.now_or_never().is_none());
}

#[tokio::test]
async fn only_the_io_task_reports_that_writing_failed() {
    let (stream, _peer) = sockets().await;
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    stream.writable().await.unwrap();
    let (_, writer) = Transport::plain(stream).split();
    let mux = WriteMux::new(Arc::new(writer), WANTED, Responses::default());
    // The appending thread does not fail: the task finds out, and closes the connection for all.
    let offset = put(&mux, Flush::Inline, &frame(3, 7, b"own"));
    assert!(mux.woken().now_or_never().is_some());
    assert!(mux.flushed(offset).now_or_never().is_none());
    let error = mux.try_flush().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert!(!mux.is_closed());
}

//! Frames that wait are read ahead: while the node merges one and waits for the disk, the next are inflated, decoded, hashed
//! and verified, on another thread where there is one. What that thread made it also lets go of, once it is applied.
//!
//! Invariants: what the transport says comes out in the order in which it was said, so that the engine is told the same as if
//! nothing were read ahead; at most [`FRAMES_MAX`] frames are read before their turn, which bounds the memory that they take;
//! only frames of peers with a session are, and only behind others that wait: a frame on its own is read where it is used,
//! which takes no wake-ups.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use engine::Engine;
use engine::identity::PeerKey;
use engine::reading::{FrameReader, ReadFrame};
use engine::store::Batch;
use engine::transport::{Transport, TransportEvent};
use tokio::sync::oneshot;

/// Frames that are read before their turn, at most.
const FRAMES_MAX: usize = 2;
/// Shorter frames are not handed to another thread, which takes as long as reading them, in bytes.
const FRAME_BYTES_MIN: usize = 4 * 1024;

/// Fewer commits are let go of where they are.
const COMMITS_MIN: usize = 64;

/// What the transport said next.
#[derive(Debug)]
pub(crate) enum Arrived {
    Event(TransportEvent),
    Read { peer: PeerKey, frame: ReadFrame },
}

#[derive(Debug)]
enum Waiting {
    Arrived(Arrived),
    Reading { peer: PeerKey, frame: oneshot::Receiver<ReadFrame> },
}

/// Who reads.
#[derive(Debug)]
enum By {
    /// Nobody: each frame is read where it is used.
    Nobody,
    /// Whoever hands it over, at once: the same in one thread, for simulations.
    Caller,
    Thread(Reading),
}

#[derive(Debug)]
enum Task {
    Read { reader: FrameReader, bytes: Vec<u8>, reply: oneshot::Sender<ReadFrame> },
    LetGo(Box<Batch>),
}

/// A thread that reads. It ends with this.
#[derive(Debug)]
struct Reading {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.tasks = None;
        // It reads what it has to the end: one frame or two.
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that reads frames has panicked");
        }
    }
}

/// What the transport said and the node has not heard yet.
#[derive(Debug)]
pub(crate) struct Ahead {
    by: By,
    waiting: VecDeque<Waiting>,
}

impl Ahead {
    /// Takes one thing after the other from the transport, and reads nothing ahead.
    pub(crate) fn nothing() -> Ahead {
        Ahead { by: By::Nobody, waiting: VecDeque::new() }
    }

    /// Reads on the caller's thread.
    pub(crate) fn by_caller() -> Ahead {
        Ahead { by: By::Caller, waiting: VecDeque::new() }
    }

    /// Reads on a thread of its own.
    pub(crate) fn by_thread() -> std::io::Result<Ahead> {
        let (sender, tasks) = mpsc::channel::<Task>();
        let work = move || {
            for task in tasks {
                match task {
                    // Nobody waits any more when the node has ended.
                    Task::Read { reader, bytes, reply } => drop(reply.send(reader.read(&bytes))),
                    Task::LetGo(batch) => drop(batch),
                }
            }
        };
        let thread = std::thread::Builder::new().name("ahenk-read".into()).spawn(work)?;
        let by = By::Thread(Reading { tasks: Some(sender), thread: Some(thread) });
        Ok(Ahead { by, waiting: VecDeque::new() })
    }

    /// What the transport said next; `None` when it has ended, or the thread that reads is gone, which takes a bug. Takes
    /// what comes behind it from the transport, too, if there may be `more`, and reads frames of peers that have sessions
    /// with the engine, if it is in use.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        transport: &mut impl Transport,
        engine: Option<&Engine>,
        more: bool,
    ) -> Poll<Option<Arrived>> {
        if matches!(self.by, By::Nobody) {
            return transport.poll_event(cx).map(|event| event.map(Arrived::Event));
        }
        // One to be dealt with, and those that are read meanwhile.
        while self.waiting.is_empty() || more && self.waiting.len() <= FRAMES_MAX {
            match transport.poll_event(cx) {
                Poll::Ready(Some(event)) => self.push(event, engine),
                Poll::Ready(None) if self.waiting.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        self.poll_next(cx)
    }

    fn push(&mut self, event: TransportEvent, engine: Option<&Engine>) {
        let next = match event {
            TransportEvent::Frame { peer, bytes }
                if !self.waiting.is_empty() && bytes.len() >= self.frame_bytes_min() =>
            {
                match engine.filter(|engine| engine.reads_ahead(&peer)) {
                    Some(engine) => self.read(peer, engine.reader(), bytes),
                    None => Waiting::Arrived(Arrived::Event(TransportEvent::Frame { peer, bytes })),
                }
            }
            event => Waiting::Arrived(Arrived::Event(event)),
        };
        self.waiting.push_back(next);
    }

    fn frame_bytes_min(&self) -> usize {
        if matches!(self.by, By::Thread(_)) { FRAME_BYTES_MIN } else { 0 }
    }

    fn read(&self, peer: PeerKey, reader: FrameReader, bytes: Vec<u8>) -> Waiting {
        let By::Thread(Reading { tasks: Some(tasks), .. }) = &self.by else {
            return Waiting::Arrived(Arrived::Read { peer, frame: reader.read(&bytes) });
        };
        let (reply, frame) = oneshot::channel();
        // Where the thread is gone nothing will come, and the node ends.
        let _ = tasks.send(Task::Read { reader, bytes, reply });
        Waiting::Reading { peer, frame }
    }

    /// Lets go of what a batch held, commits in small pieces. The thread that made them of a frame does that, which is
    /// quicker for it, too. What it still has to let go of is bounded: it comes to that before it reads another frame, and
    /// the node waits for those.
    pub(crate) fn let_go(&self, batch: Box<Batch>) {
        if let By::Thread(Reading { tasks: Some(tasks), .. }) = &self.by
            && batch.commits.len() >= COMMITS_MIN
            && !self.waiting.is_empty()
        {
            // If it is gone, the batch is let go of here.
            let _ = tasks.send(Task::LetGo(batch));
        }
    }

    /// The next in order, once it is read.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arrived>> {
        match self.waiting.pop_front() {
            None => Poll::Pending,
            Some(Waiting::Arrived(arrived)) => Poll::Ready(Some(arrived)),
            Some(Waiting::Reading { peer, mut frame }) => match Pin::new(&mut frame).poll(cx) {
                Poll::Ready(read) => Poll::Ready(read.ok().map(|frame| Arrived::Read { peer, frame })),
                Poll::Pending => {
                    self.waiting.push_front(Waiting::Reading { peer, frame });
                    Poll::Pending
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use engine::config::Config;
    use engine::io::Input;
    use engine::store::{MemStore, StoreRead as _};
    use engine::testing::{Author, EPOCH_MS, test_identity};
    use engine::time::{Instant, Now, WallMs};
    use engine::transport::TrySendError;
    use engine::wire::message::{Control, pack_control};

    use super::*;

    struct Script(VecDeque<TransportEvent>);

    impl Transport for Script {
        fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
            Poll::Ready(self.0.pop_front())
        }
        fn try_send(&mut self, _: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
            Err(TrySendError::Gone(frame))
        }
        fn broadcast(&mut self, _: Vec<u8>) {}
        fn disconnect(&mut self, _: PeerKey, _: &str) {}
        fn set_members(&mut self, _: &[PeerKey]) {}
    }

    /// An engine that has a session with the 9th device of the account.
    fn engine(author: &Author) -> Engine {
        let (store, now) = (MemStore::new(), Now { mono: Instant(0), wall: WallMs(EPOCH_MS) });
        let recovered = store.recover().unwrap();
        let mut engine =
            Engine::new(Config::default(), test_identity(0), [1; 32], recovered, now, &store).unwrap();
        while engine.poll_output().is_some() {}
        let peer = author.identity.peer_key();
        let hello = pack_control(77, &Control::Hello(Box::new(author.hello()))).unwrap();
        for input in [Input::PeerUp(peer), Input::Frame { peer, bytes: hello }] {
            engine.handle(now, input, &store).unwrap();
            while engine.poll_output().is_some() {}
        }
        engine
    }

    fn frame(peer: PeerKey, len: usize) -> TransportEvent {
        TransportEvent::Frame { peer, bytes: vec![3; len] }
    }

    /// Hears everything, and says of each thing what it was: the length of a frame, and whether it had been read.
    async fn hear(
        mut ahead: Ahead,
        engine: Option<&Engine>,
        more: bool,
        script: &[TransportEvent],
    ) -> Vec<(usize, bool)> {
        let mut transport = Script(script.iter().cloned().collect());
        let mut heard = Vec::new();
        while let Some(arrived) = poll_fn(|cx| ahead.poll(cx, &mut transport, engine, more)).await {
            heard.push(match arrived {
                Arrived::Event(TransportEvent::Frame { bytes, .. }) => (bytes.len(), false),
                Arrived::Event(_) => (0, false),
                Arrived::Read { frame, .. } => (frame.bytes(), true),
            });
            let taken = script.len() - transport.0.len();
            let early = if more { FRAMES_MAX } else { 0 };
            assert!(taken <= heard.len() + early, "{taken} were taken, {} heard", heard.len());
        }
        heard
    }

    #[tokio::test]
    async fn all_that_the_transport_says_is_heard_in_its_order_with_at_most_two_frames_read_before_their_turn()
     {
        let author = Author::new(9);
        let (engine, peer) = (engine(&author), author.identity.peer_key());
        let mut script = Vec::new();
        for n in 0..50 {
            script.push(frame(peer, 10_000 + n));
            if n % 7 == 0 {
                script.push(TransportEvent::Writable { peer });
                script.push(frame(peer, n + 1));
            }
        }
        script.push(TransportEvent::PeerDown { peer, reason: String::new() });
        script.push(frame(peer, 20_000));
        let length = |event: &TransportEvent| match event {
            TransportEvent::Frame { bytes, .. } => bytes.len(),
            _ => 0,
        };
        let said: Vec<usize> = script.iter().map(length).collect();
        for ahead in [Ahead::by_thread().unwrap(), Ahead::by_caller()] {
            let heard = hear(ahead, Some(&engine), true, &script).await;
            assert_eq!(heard.iter().map(|(length, _)| *length).collect::<Vec<_>>(), said);
            assert!(heard.iter().filter(|(_, read)| *read).count() > 40, "{heard:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_read_of_strangers_nor_before_it_is_paid_for_nor_while_the_engine_is_out_of_use() {
        let author = Author::new(9);
        let (engine, peer) = (engine(&author), author.identity.peer_key());
        let strange = vec![frame(test_identity(5).peer_key(), 10_000); 5];
        let known = vec![frame(peer, 10_000); 5];
        let unread = vec![(10_000, false); 5];
        assert_eq!(hear(Ahead::by_caller(), Some(&engine), true, &strange).await, unread);
        assert_eq!(hear(Ahead::by_caller(), None, true, &known).await, unread);
        assert_eq!(hear(Ahead::by_caller(), Some(&engine), false, &known).await, unread);
        assert_eq!(hear(Ahead::nothing(), Some(&engine), false, &known).await, unread);
        assert_ne!(hear(Ahead::by_caller(), Some(&engine), true, &known).await, unread);
    }
}

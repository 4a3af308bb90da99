//! Slows down what peers send to a relay: so many bytes a second for each, whatever connections and streams it uses.
//! libp2p's relay passes bytes on as fast as they come, so they are made to come more slowly.
//!
//! What has been read is paid for in time before the next read on the same stream. So a stream that carries little, as
//! pings do, is answered at once however much another one owes, and the multiplexer's windows make the peer wait.
//! Invariants: over any time, all streams of a peer together yield no more than the rate, a tenth of a second's worth and
//! one read each; nothing is kept of a peer that has gone.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use tokio::time::{Instant, Sleep};

/// What a peer that was silent may send at once.
const BURST: Duration = Duration::from_millis(100);

/// What one peer has sent is paid for until then.
#[derive(Debug)]
struct Account {
    bytes_per_s: u64,
    paid_until: Mutex<Instant>,
}

impl Account {
    /// Pays for what was read; until when nothing more may be.
    fn pay(&self, bytes: usize, now: Instant) -> Instant {
        let mut paid_until = lock(&self.paid_until);
        let from = now.checked_sub(BURST).map_or(*paid_until, |earliest| earliest.max(*paid_until));
        *paid_until = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        *paid_until
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done while it is held can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module's documentation. Its clones know the same peers.
#[derive(Debug, Clone)]
pub(crate) struct Throttle {
    /// 0 for no limit.
    bytes_per_s: u64,
    accounts: Arc<Mutex<BTreeMap<PeerId, Weak<Account>>>>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_s: u64) -> Throttle {
        Throttle { bytes_per_s, accounts: Arc::default() }
    }

    fn account(&self, peer: PeerId) -> Option<Arc<Account>> {
        if self.bytes_per_s == 0 {
            return None;
        }
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(&peer).and_then(Weak::upgrade) {
            return Some(account);
        }
        accounts.retain(|_, account| account.strong_count() > 0);
        let account =
            Arc::new(Account { bytes_per_s: self.bytes_per_s, paid_until: Mutex::new(Instant::now()) });
        accounts.insert(peer, Arc::downgrade(&account));
        Some(account)
    }

    /// A connection with a peer, slowed down.
    pub(crate) fn connection(&self, peer: PeerId, muxer: StreamMuxerBox) -> Throttled {
        Throttled { muxer, account: self.account(peer) }
    }
}

/// A connection whose streams are slowed down.
pub(crate) struct Throttled {
    muxer: StreamMuxerBox,
    account: Option<Arc<Account>>,
}

impl Throttled {
    fn slow(&self, stream: SubstreamBox) -> Slow {
        Slow { stream, account: self.account.clone(), wait: None }
    }
}

impl StreamMuxer for Throttled {
    type Substream = Slow;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Slow>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_inbound(cx))?;
        Poll::Ready(Ok(self.slow(stream)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Slow>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_outbound(cx))?;
        Poll::Ready(Ok(self.slow(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.muxer).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}

/// A stream of which no more is read for as long as what was read is not paid for.
pub(crate) struct Slow {
    stream: SubstreamBox,
    account: Option<Arc<Account>>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(account) = &self.account {
            let now = Instant::now();
            let until = account.pay(read, now);
            self.wait = (until > now).then(|| Box::pin(tokio::time::sleep_until(until)));
        }
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sends_on_all_its_streams_is_paid_for_together() {
        let throttle = Throttle::new(1000);
        let (one, other) = (PeerId::random(), PeerId::random());
        let first = throttle.account(one).expect("limited");
        let second = throttle.account(one).expect("limited");
        let begun = Instant::now() + Duration::from_secs(10);
        // A tenth of a second's worth is free after a silence.
        assert_eq!(first.pay(100, begun), begun);
        assert_eq!(second.pay(1000, begun), begun + Duration::from_secs(1));
        assert_eq!(first.pay(500, begun), begun + Duration::from_millis(1500));
        let another = throttle.account(other).expect("limited");
        assert_eq!(another.pay(100, begun), begun, "a peer of its own");
        drop((first, second, another));
        assert!(throttle.account(other).is_some() && lock(&throttle.accounts).len() == 1, "others have gone");
        assert!(Throttle::new(0).account(one).is_none());
    }
}

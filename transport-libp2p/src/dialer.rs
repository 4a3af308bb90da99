//! When to dial whom. Pure: time and the seed come in, peers to dial come out.
//!
//! Invariants: only members are dialed; one dial to a peer at a time, but for a second one beside it when there was news
//! or the peer was connected until not long ago; the wait between two tries grows from [`FIRST_MS`] to
//! [`Dialer::wait_ms_max`] with jitter (to [`RECENT_WAIT_MS_MAX`] for a peer that was connected until not long ago), and
//! starts anew only after a connection that lasted or news (a discovery, another network).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::identity::PeerKey;

/// First wait after a failure, in milliseconds.
const FIRST_MS: u64 = 1_000;
/// Longest wait, in milliseconds.
pub(crate) const WAIT_MS_MAX: u64 = 5 * 60 * 1_000;
/// Longest wait for a peer that was connected until not long ago, in milliseconds: most losses are short.
const RECENT_WAIT_MS_MAX: u64 = 4_000;
/// For how long a peer counts as such, in milliseconds.
const RECENT_MS: u64 = 15 * 60 * 1_000;
/// A dial repeats its first packet ever more rarely, and so finds a way that has just opened late. To a peer that was
/// connected until not long ago, another begins beside it after so long, in milliseconds.
const BESIDE_MS: u64 = 4_000;
/// Most dials to one peer at a time.
const UNDER_WAY_MAX: u32 = 2;
/// The larger key of a pair waits this long before it dials, so that the two do not meet half-way, in milliseconds.
const YIELD_MS: u64 = 400;
/// A connection that lasted this long proves that dialing works, in milliseconds.
const STABLE_MS: u64 = 30_000;
/// News of an address is often followed by more: the dial waits this long for them, in milliseconds.
const GATHER_MS: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No address is known.
    Stuck,
    /// To be dialed at this time.
    Due(Instant),
    /// A dial is under way; another may begin beside it at that time.
    Dialing(Option<Instant>),
    /// There is a connection since then, whoever dialed it.
    Connected(Instant),
}

#[derive(Debug)]
struct Target {
    state: State,
    /// When to look for a better way than the present one, and how often that was done.
    upgrade: Option<(Instant, u32)>,
    /// There was news while a dial was under way: if it fails, the next follows at once.
    news: bool,
    /// Dials that have not ended, as far as known.
    under_way: u32,
    /// Until when it was connected.
    left: Option<Instant>,
    failures: u32,
    last_error: Option<String>,
}

impl Target {
    fn recent(&self, now: Instant) -> bool {
        self.left.is_some_and(|left| now.saturating_duration_since(left) < Duration::from_millis(RECENT_MS))
    }

    /// A dial has ended without a connection.
    fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

/// What the dialer knows of a peer, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) next_attempt: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Dialer {
    local: PeerKey,
    targets: BTreeMap<PeerKey, Target>,
    wait_ms_max: u64,
    upgrade_ms: u64,
    random: u64,
}

impl Dialer {
    pub(crate) fn new(local: PeerKey, seed: u64, wait_ms_max: u64, upgrade_ms: u64) -> Dialer {
        Dialer { local, targets: BTreeMap::new(), wait_ms_max, upgrade_ms, random: seed }
    }

    /// Replaces the set of those to be dialed.
    pub(crate) fn set_members(&mut self, members: &BTreeSet<PeerKey>, now: Instant) {
        self.targets.retain(|peer, _| members.contains(peer));
        for peer in members {
            let due = State::Due(now + self.yielding(peer));
            self.targets.entry(*peer).or_insert(Target {
                state: due,
                upgrade: None,
                news: false,
                under_way: 0,
                left: None,
                failures: 0,
                last_error: None,
            });
        }
    }

    /// The next peer whose time has come. The caller dials it, and reports how that went.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<PeerKey> {
        let due = |state| matches!(state, State::Due(at) | State::Dialing(Some(at)) if at <= now);
        let (peer, target) = self.targets.iter_mut().find(|(_, target)| due(target.state))?;
        target.under_way += 1;
        target.news = false;
        let beside = target.under_way < UNDER_WAY_MAX && target.recent(now);
        target.state = State::Dialing(beside.then(|| now + Duration::from_millis(BESIDE_MS)));
        Some(*peer)
    }

    /// When [`Dialer::poll`] will have something.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.targets
            .values()
            .filter_map(|target| match target.state {
                State::Due(at) => Some(at),
                State::Dialing(beside) => beside,
                State::Connected(_) => target.upgrade.map(|(at, _)| at),
                State::Stuck => None,
            })
            .min()
    }

    /// The next connected peer to which a better way should be tried. The wait until the next try
    /// starts now.
    pub(crate) fn poll_upgrade(&mut self, now: Instant) -> Option<PeerKey> {
        for (peer, target) in &mut self.targets {
            if let (State::Connected(_), Some((at, tries))) = (target.state, target.upgrade)
                && at <= now
            {
                let wait = self.upgrade_ms + backoff_ms(tries + 1, self.wait_ms_max, &mut self.random);
                target.upgrade = Some((now + Duration::from_millis(wait), tries + 1));
                return Some(*peer);
            }
        }
        None
    }

    /// The present way to a connected peer is the best there is, or not.
    pub(crate) fn rate(&mut self, peer: &PeerKey, best: bool, now: Instant) {
        let yielding = self.yielding(peer);
        let first = now + Duration::from_millis(self.upgrade_ms) + yielding;
        if let Some(target) = self.targets.get_mut(peer) {
            target.upgrade = if best { None } else { target.upgrade.or(Some((first, 0))) };
        }
    }

    /// The peer has no known address: wait for news.
    pub(crate) fn stuck(&mut self, peer: &PeerKey) {
        if let Some(target) = self.targets.get_mut(peer) {
            target.ended();
            target.state = State::Stuck;
        }
    }

    /// A dial failed.
    pub(crate) fn failed(&mut self, peer: &PeerKey, error: String, now: Instant) {
        let Some(target) = self.targets.get_mut(peer) else { return };
        target.last_error = Some(error);
        target.ended();
        if matches!(target.state, State::Connected(_)) {
            return;
        }
        if std::mem::take(&mut target.news) {
            target.failures = 0;
            target.state = State::Due(now);
            return;
        }
        target.failures = target.failures.saturating_add(1);
        if target.under_way > 0 {
            // The other one began later, and may yet succeed.
            target.state = State::Dialing(target.recent(now).then_some(now));
            return;
        }
        let most = match target.recent(now) {
            true => self.wait_ms_max.min(RECENT_WAIT_MS_MAX),
            false => self.wait_ms_max,
        };
        let wait = backoff_ms(target.failures, most, &mut self.random);
        target.state = State::Due(now + Duration::from_millis(wait));
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self, peer: &PeerKey, now: Instant) {
        if let Some(target) = self.targets.get_mut(peer)
            && !matches!(target.state, State::Connected(_))
        {
            target.news = false;
            target.under_way = 0;
            target.state = State::Connected(now);
        }
    }

    /// The last connection is gone. `broken` if it carried a session that neither side ended: the way is gone, or the
    /// peer's process.
    pub(crate) fn lost(&mut self, peer: &PeerKey, reason: String, broken: bool, now: Instant) {
        let yielding = self.yielding(peer);
        let Some(target) = self.targets.get_mut(peer) else { return };
        let State::Connected(since) = target.state else { return };
        target.last_error = Some(reason);
        target.upgrade = None;
        let lasted = now.saturating_duration_since(since) >= Duration::from_millis(STABLE_MS);
        if lasted || broken {
            target.left = Some(now);
        }
        let wait = if lasted {
            target.failures = 0;
            yielding
        } else {
            // A connection that ends soon is a failure too, or two devices that refuse each other
            // would dial without pause.
            target.failures = target.failures.saturating_add(1);
            let most = if broken { self.wait_ms_max.min(RECENT_WAIT_MS_MAX) } else { self.wait_ms_max };
            yielding + Duration::from_millis(backoff_ms(target.failures, most, &mut self.random))
        };
        target.state = State::Due(now + wait);
    }

    /// A new address of the peer became known.
    pub(crate) fn discovered(&mut self, peer: &PeerKey, now: Instant) {
        let yielding = self.yielding(peer);
        let soon = now + Duration::from_millis(GATHER_MS) + yielding;
        let upgrade = now + Duration::from_millis(self.upgrade_ms) + yielding;
        let Some(target) = self.targets.get_mut(peer) else { return };
        match target.state {
            State::Stuck => target.state = State::Due(soon),
            State::Due(at) => target.state = State::Due(at.min(soon)),
            State::Connected(_) => {
                if let Some((at, tries)) = &mut target.upgrade {
                    (*at, *tries) = ((*at).min(upgrade), 0);
                }
                return;
            }
            State::Dialing(beside) => {
                // What is under way may have gone into the void.
                if target.under_way < UNDER_WAY_MAX {
                    target.state = State::Dialing(Some(beside.map_or(soon, |at| at.min(soon))));
                } else {
                    target.news = true;
                }
                return;
            }
        }
        target.failures = 0;
    }

    /// The network is another one: try everybody again.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        let peers: Vec<PeerKey> = self.targets.keys().copied().collect();
        for peer in peers {
            self.discovered(&peer, now);
        }
    }

    /// How things stand with a peer.
    pub(crate) fn outlook(&self, peer: &PeerKey) -> Outlook {
        let Some(target) = self.targets.get(peer) else { return Outlook::default() };
        Outlook {
            failures: target.failures,
            last_error: target.last_error.clone(),
            next_attempt: match target.state {
                State::Due(at) => Some(at),
                _ => None,
            },
        }
    }

    fn yielding(&self, peer: &PeerKey) -> Duration {
        if self.local < *peer { Duration::ZERO } else { Duration::from_millis(YIELD_MS) }
    }
}

/// Doubles with every failure; three quarters to five quarters of that, so that devices which lost
/// each other together do not come back together.
fn backoff_ms(failures: u32, wait_ms_max: u64, random: &mut u64) -> u64 {
    let plain = FIRST_MS.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let quarter = plain / 4;
    (plain - quarter + splitmix(random) % (2 * quarter + 1)).min(wait_ms_max)
}

/// SplitMix64, which is all the randomness that jitter needs.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: PeerKey = PeerKey([1; 32]);
    const LARGE: PeerKey = PeerKey([2; 32]);

    fn dialer(local: PeerKey, member: PeerKey, now: Instant) -> Dialer {
        let mut dialer = Dialer::new(local, 7, WAIT_MS_MAX, 1_000);
        dialer.set_members(&BTreeSet::from([member]), now);
        dialer
    }

    #[test]
    fn waits_double_up_to_the_maximum_and_never_exceed_it() {
        let mut random = 1;
        for failures in 1..100 {
            let wait = backoff_ms(failures, WAIT_MS_MAX, &mut random);
            let plain = FIRST_MS << (failures - 1).min(20);
            assert!(wait >= (plain * 3 / 4).min(WAIT_MS_MAX) && wait <= (plain * 5 / 4).min(WAIT_MS_MAX));
        }
    }

    #[test]
    fn the_smaller_key_dials_first_and_nobody_twice_at_once() {
        let now = Instant::now();
        let mut small = dialer(SMALL, LARGE, now);
        let mut large = dialer(LARGE, SMALL, now);
        assert_eq!(small.poll(now), Some(LARGE));
        assert_eq!(small.poll(now), None);
        assert_eq!(large.poll(now), None);
        let later = large.next_due().expect("due later");
        assert_eq!(later, now + Duration::from_millis(YIELD_MS));
        assert_eq!(large.poll(later), Some(SMALL));
    }

    #[test]
    fn a_discovery_ends_the_wait_and_forgets_the_failures() {
        let mut now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        for _ in 0..20 {
            assert_eq!(dialer.poll(now), Some(LARGE));
            dialer.failed(&LARGE, "refused".into(), now);
            now = dialer.next_due().expect("a next try");
        }
        assert_eq!(dialer.poll(now), Some(LARGE));
        dialer.failed(&LARGE, "refused".into(), now);
        assert_eq!(dialer.poll(now + Duration::from_secs(60)), None, "it waits for minutes by now");
        dialer.discovered(&LARGE, now);
        assert_eq!(dialer.poll(now + Duration::from_millis(GATHER_MS)), Some(LARGE));
        assert_eq!(dialer.outlook(&LARGE).failures, 0);
    }

    #[test]
    fn a_lasting_connection_is_redialed_at_once_and_a_short_one_after_a_wait() {
        let now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        dialer.poll(now);
        dialer.connected(&LARGE, now);
        assert_eq!(dialer.next_due(), None);
        dialer.lost(&LARGE, "refused".into(), false, now);
        assert_eq!(dialer.poll(now), None);
        let mut now = dialer.next_due().expect("a next try");
        assert_eq!(dialer.poll(now), Some(LARGE));
        dialer.connected(&LARGE, now);
        now += Duration::from_millis(STABLE_MS);
        dialer.lost(&LARGE, "cable".into(), true, now);
        assert_eq!(dialer.poll(now), Some(LARGE));
    }

    #[test]
    fn a_peer_that_was_connected_until_now_is_tried_often_and_later_rarely() {
        let mut now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        dialer.poll(now);
        dialer.connected(&LARGE, now);
        now += Duration::from_millis(STABLE_MS);
        dialer.lost(&LARGE, "cable".into(), true, now);
        let (left, mut longest) = (now, Duration::ZERO);
        while now < left + Duration::from_millis(RECENT_MS) {
            assert_eq!(dialer.poll(now), Some(LARGE));
            dialer.failed(&LARGE, "no route".into(), now);
            let next = dialer.next_due().expect("a next try");
            longest = longest.max(next - now);
            now = next;
        }
        assert!(longest <= Duration::from_millis(RECENT_WAIT_MS_MAX));
        dialer.poll(now);
        dialer.failed(&LARGE, "no route".into(), now);
        assert!(dialer.next_due().expect("a next try") - now > Duration::from_millis(60_000));
    }

    #[test]
    fn a_way_that_broke_soon_after_it_was_found_is_tried_often_for_as_long() {
        let mut now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        dialer.poll(now);
        dialer.connected(&LARGE, now);
        now += Duration::from_millis(STABLE_MS / 2);
        dialer.lost(&LARGE, "cable".into(), true, now);
        for _ in 0..50 {
            let next = dialer.next_due().expect("a next try");
            assert!(next - now <= Duration::from_millis(RECENT_WAIT_MS_MAX));
            now = next;
            assert_eq!(dialer.poll(now), Some(LARGE));
            dialer.failed(&LARGE, "no route".into(), now);
        }
    }

    #[test]
    fn beside_a_dial_that_hangs_to_a_peer_just_lost_another_begins_and_no_third() {
        let mut now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        dialer.poll(now);
        assert_eq!(dialer.next_due(), None, "not to one that was never there");
        dialer.connected(&LARGE, now);
        now += Duration::from_millis(STABLE_MS);
        dialer.lost(&LARGE, "cable".into(), true, now);
        assert_eq!(dialer.poll(now), Some(LARGE));
        for _ in 0..10 {
            now = dialer.next_due().expect("one beside it");
            assert_eq!(dialer.poll(now), Some(LARGE));
            assert_eq!((dialer.poll(now), dialer.next_due()), (None, None));
            now += Duration::from_millis(BESIDE_MS);
            dialer.failed(&LARGE, "timed out".into(), now);
        }
        dialer.connected(&LARGE, now);
        assert_eq!(dialer.next_due(), None);
    }

    #[test]
    fn news_during_a_dial_makes_another_begin_beside_it_and_a_third_follow_at_once() {
        let now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        dialer.poll(now);
        dialer.network_changed(now);
        let now = now + Duration::from_millis(GATHER_MS);
        assert_eq!(dialer.poll(now), Some(LARGE), "what is under way may be lost");
        dialer.network_changed(now);
        assert_eq!(dialer.poll(now + Duration::from_secs(1)), None, "never three at a time");
        dialer.failed(&LARGE, "timed out".into(), now);
        assert_eq!(dialer.poll(now), Some(LARGE));
        dialer.failed(&LARGE, "timed out".into(), now);
        dialer.failed(&LARGE, "timed out".into(), now);
        assert_eq!(dialer.poll(now), None);
    }

    #[test]
    fn a_better_way_is_tried_again_and_again_but_ever_more_rarely() {
        let mut now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        dialer.poll(now);
        dialer.connected(&LARGE, now);
        dialer.rate(&LARGE, false, now);
        let mut waits = Vec::new();
        for _ in 0..20 {
            let at = dialer.next_due().expect("a next try");
            waits.push(at - now);
            now = at;
            assert_eq!(dialer.poll(now), None);
            assert_eq!(dialer.poll_upgrade(now), Some(LARGE));
            assert_eq!(dialer.poll_upgrade(now), None);
        }
        assert!(waits[0] < waits[5] && waits[5] < waits[10]);
        assert!(waits[19] <= Duration::from_millis(WAIT_MS_MAX + 1_000));
        dialer.rate(&LARGE, true, now);
        assert_eq!(dialer.next_due(), None);
    }

    #[test]
    fn without_an_address_it_waits_for_news_and_outsiders_are_never_dialed() {
        let now = Instant::now();
        let mut dialer = dialer(SMALL, LARGE, now);
        dialer.poll(now);
        dialer.stuck(&LARGE);
        assert_eq!(dialer.next_due(), None);
        dialer.discovered(&PeerKey([9; 32]), now);
        assert_eq!(dialer.next_due(), None);
        dialer.network_changed(now);
        assert_eq!(dialer.poll(now + Duration::from_millis(GATHER_MS)), Some(LARGE));
        dialer.set_members(&BTreeSet::new(), now);
        dialer.failed(&LARGE, "late news".into(), now);
        assert_eq!(dialer.next_due(), None);
    }
}

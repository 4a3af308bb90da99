//! The oracles: what must hold of every device at every moment, checked over its store from outside.
//!
//! Invariants: nothing here calls the engine's merge; an observer looks at each commit of a log once, so that looking
//! after every event stays cheap. Bookkeeping lives here, in the harness, and survives the crashes of what it watches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use engine::commit::{Commit, CommitHash};
use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::{DeviceId, Dot, ReplicaId};
use engine::io::{Event, Written};
use engine::knowledge::Knowledge;
use engine::name::{RowKey, TableName};
use engine::row::RowState;
use engine::statement::Statement;
use engine::store::{Quarantined, Recovered, StoreError, StoreRead};
use engine::value::Value;
use engine::wire::message::Fault;

use crate::history::{Global, History};
use crate::ledger::Ledger;
use crate::plan::{PAIR, TABLE, letter};
use crate::reference::{Key, Reference, RowView, place, place_of};
use crate::standing::Standing;

/// Commits read from a log at a time.
const PAGE: usize = 256;
/// Milliseconds by which counters may carry a clock further.
const CARRY_MS: u64 = 2;
/// A clock that leads the wall by nearly the drift bound may be put back or not, in milliseconds.
const CLOCK_MARGIN_MS: u64 = 1_000;

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The property, in a few words.
    pub oracle: &'static str,
    /// What was found, in one sentence.
    pub sentence: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.sentence)
    }
}

/// Fails with a violation.
pub(crate) fn violation<T>(oracle: &'static str, sentence: String) -> Result<T, Violation> {
    Err(Violation { oracle, sentence })
}

fn read<T>(result: Result<T, StoreError>) -> Result<T, Violation> {
    result.or_else(|error| violation("a store can be read", error.to_string()))
}

/// Watches one device.
#[derive(Debug)]
pub struct Observer {
    pub(crate) node: usize,
    drift_ms_max: u64,
    position: u64,
    heads: BTreeMap<ReplicaId, (u64, CommitHash)>,
    /// The same as `heads`, without hashes.
    knowledge: Knowledge,
    /// What each replica's author had seen with its last commit.
    seen: BTreeMap<ReplicaId, BTreeMap<ReplicaId, u64>>,
    clock: Hlc,
    /// Largest reading of the wall clock since the last look, the smallest, and the last.
    wall_ms_max: u64,
    wall_ms_min: u64,
    wall_ms_last: u64,
    /// Latest stamp of a commit since the last look.
    stamp_ms_max: u64,
    /// The latest of those stamps that the clock has shown: it may have followed the wall clock back again since.
    clock_max: Hlc,
    ledger: Ledger,
    reference: Reference,
    changed: BTreeSet<Key>,
    standing: Standing,
    /// Commits that were applied and no longer count.
    retracted: BTreeSet<(Dot, CommitHash)>,
}

impl Observer {
    /// Watches a device from its beginning.
    pub fn new(node: usize, device: DeviceId, config: &Config) -> Observer {
        Observer {
            node,
            drift_ms_max: config.drift_ms_max,
            position: 0,
            heads: BTreeMap::new(),
            knowledge: Knowledge::default(),
            seen: BTreeMap::new(),
            clock: Hlc::default(),
            wall_ms_max: 0,
            wall_ms_min: 0,
            wall_ms_last: 0,
            stamp_ms_max: 0,
            clock_max: Hlc::default(),
            ledger: Ledger::default(),
            reference: Reference::default(),
            changed: BTreeSet::new(),
            standing: Standing::of(device),
            retracted: BTreeSet::new(),
        }
    }

    fn name(&self) -> char {
        letter(self.node)
    }

    /// Notes what the device's wall clock shows. Call before and after each change of it.
    pub fn wall(&mut self, ms: u64) {
        self.wall_ms_max = self.wall_ms_max.max(ms);
        self.wall_ms_min = self.wall_ms_min.min(ms);
        self.wall_ms_last = ms;
    }

    /// The harness itself has set what the device's clock goes on from.
    pub fn clock_set(&mut self, clock: Hlc) {
        self.clock = clock;
    }

    /// Whether a commit is in the log, or in quarantine.
    pub(crate) fn has(&self, history: &History, dot: &Dot, hash: &CommitHash) -> bool {
        self.stands(history, dot, hash) || self.retracted.contains(&(*dot, *hash))
    }

    /// Whether a commit is in the log, and not another of its name.
    fn stands(&self, history: &History, dot: &Dot, hash: &CommitHash) -> bool {
        self.heads.get(&dot.replica).is_some_and(|head| history.stands(*head, dot, hash))
    }

    /// Whether a commit that was answered with success is where it must be in the end, as this log has it: applied, unless
    /// it no longer counts. Of what a fork took back, that somebody kept it is for the one that must have it.
    pub(crate) fn settled(&self, global: &Global, dot: &Dot, hash: &CommitHash) -> bool {
        let forked = global.forked.contains(&dot.replica.device) && self.standing.end(&dot.replica).is_some();
        self.beyond_fence(dot)
            || self.stands(&global.history, dot, hash)
            || (forked && self.knowledge.contains(dot))
    }

    /// The last commit of each replica in the log.
    pub fn heads(&self) -> &BTreeMap<ReplicaId, (u64, CommitHash)> {
        &self.heads
    }

    /// What is applied of a device's replicas, as this log has it: the last of each by incarnation.
    pub fn applied_of(&self, device: &DeviceId) -> BTreeMap<u64, (u64, CommitHash)> {
        let of = self.heads.iter().filter(|(replica, _)| replica.device == *device);
        of.map(|(replica, head)| (replica.incarnation, *head)).collect()
    }

    /// The device that is watched.
    pub fn device(&self) -> DeviceId {
        self.standing.device()
    }

    /// Whether a commit no longer counts, as this log has it.
    pub fn beyond_fence(&self, dot: &Dot) -> bool {
        self.standing.limit(&dot.replica).is_some_and(|limit| dot.seq > limit)
    }

    /// Whether a device is revoked, as this log has it.
    pub fn revoked(&self, device: &DeviceId) -> bool {
        self.standing.revoked(device)
    }

    /// Commits that were seen in the log.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the rows of the pair were written more than once.
    pub fn pair_overwritten(&self) -> bool {
        key(TABLE, PAIR[0]).is_ok_and(|key| self.reference.writes(&key) > 1)
    }

    /// The knowledge that the log amounts to.
    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// Takes in what is new in the log, and checks all that it implies. Returns whether there was anything.
    pub fn observe(&mut self, global: &mut Global, store: &dyn StoreRead) -> Result<bool, Violation> {
        let retracted = self.retracted.len();
        let (mut recovered, mut quarantine) = (None, None);
        loop {
            let page = read(store.applied(self.position + 1, PAGE))?;
            if page.is_empty() {
                break;
            }
            if recovered.is_none() {
                recovered = Some(read(store.recover())?);
            }
            let own = recovered.as_ref().and_then(|recovered| recovered.replica);
            for stored in &page {
                while self.position + 1 < stored.position {
                    if quarantine.is_none() {
                        quarantine = Some(by_position(store)?);
                    }
                    let Some(gone) = quarantine.as_ref().and_then(|all| all.get(&(self.position + 1))) else {
                        let (name, found, due) = (self.name(), stored.position, self.position + 1);
                        let sentence = format!("{name} has position {found} where {due} is due");
                        return violation("each position is in the log or in quarantine", sentence);
                    };
                    self.position += 1;
                    self.commit(global, store, &gone.stored.commit, own)?;
                }
                self.position += 1;
                self.commit(global, store, &stored.commit, own)?;
            }
            if page.len() < PAGE {
                break;
            }
        }
        let Some(recovered) = recovered else { return Ok(false) };
        self.check_heads(&recovered)?;
        self.check_clock(&recovered)?;
        self.ledger.check(self.name(), store)?;
        if self.retracted.len() > retracted || quarantine.is_some() {
            self.check_quarantine(store)?;
        }
        if PAIR.iter().any(|row| self.changed.iter().any(|(_, changed)| changed.as_str() == *row)) {
            self.check_pair(store)?;
        }
        for key in std::mem::take(&mut self.changed) {
            self.check_row(store, &key)?;
        }
        Ok(true)
    }

    /// The device has started again: its store must hold what it held before.
    pub fn reopened(&mut self, global: &mut Global, store: &dyn StoreRead) -> Result<(), Violation> {
        let position = read(store.recover())?.position;
        if position < self.position {
            return violation(
                "knowledge does not shrink over a crash",
                format!("{} had {} commits, and has {position}", self.name(), self.position),
            );
        }
        self.check_all(global, store)
    }

    /// `own`: the replica that the device writes as.
    fn commit(
        &mut self,
        global: &mut Global,
        store: &dyn StoreRead,
        commit: &Commit,
        own: Option<ReplicaId>,
    ) -> Result<(), Violation> {
        let (name, dot) = (self.name(), commit.dot);
        let (seq, prev) = self.heads.get(&dot.replica).copied().unwrap_or_default();
        if dot.seq != seq + 1 || commit.prev != prev {
            return violation(
                "each replica's commits are applied in order, each once",
                format!("{name} applied {dot:?} after sequence number {seq}"),
            );
        }
        for (replica, needed) in &commit.deps {
            let has = self.heads.get(replica).map_or(0, |(seq, _)| *seq);
            // What was taken back is not waited for.
            let needed = self.standing.limit(replica).map_or(*needed, |limit| limit.min(*needed));
            if has < needed {
                return violation(
                    "a commit is applied after all that its author had seen",
                    format!(
                        "{name} applied {dot:?}, which needs {needed} commits of {replica:?}, and had {has}"
                    ),
                );
            }
        }
        self.check_authority(global, commit)?;
        let (hash, named) = global.history.note(commit);
        if named > 1 && !global.forked.contains(&dot.replica.device) {
            let sentence = format!("{name} has another commit {dot:?} than other devices");
            return violation("one name, one commit", sentence);
        }
        let seen = self.seen.entry(dot.replica).or_default();
        see(seen, commit);
        self.ledger.commit(&self.reference, commit, seen);
        let shown = if own == Some(dot.replica) {
            self.check_deps(dot)?;
            self.check_overwrites(commit)?;
            !self.reference.raised(commit)
        } else {
            commit.hlc.ms() <= self.wall_ms_max.saturating_add(self.drift_ms_max)
        };
        self.clock_max = if shown { self.clock_max.max(commit.hlc) } else { self.clock_max };
        self.stamp_ms_max = self.stamp_ms_max.max(commit.hlc.ms());
        self.heads.insert(dot.replica, (dot.seq, hash));
        self.knowledge.insert(dot.replica, 1, dot.seq);
        self.reference.add(commit);
        self.changed.extend(rows_of(commit));
        if commit.statement.is_some() {
            self.standing.hear(commit);
            self.roll_back(global, store, dot)?;
        }
        Ok(())
    }

    /// Nothing that does not count is applied, and a revoked device gets nothing any more.
    fn check_authority(&self, global: &Global, commit: &Commit) -> Result<(), Violation> {
        let (name, dot) = (self.name(), commit.dot);
        let unauthorised = |what: &str| {
            violation("no unauthorised commit is applied", format!("{name} applied {dot:?}, {what}"))
        };
        match commit.statement.as_deref() {
            Some(Statement::Revoke(said)) if !global.ordered.contains(&said.device) => {
                return unauthorised("a revocation that no administrator ordered");
            }
            Some(Statement::Fork(proof)) if !global.forked.contains(&proof.replica().device) => {
                return unauthorised("a proof that a database ran twice which did not");
            }
            Some(Statement::Certify(cert)) if !global.devices.contains(&cert.device()) => {
                return unauthorised("which certifies a device that is none of the account's");
            }
            Some(_) => return Ok(()),
            None if !global.devices.contains(&dot.replica.device) => {
                return unauthorised("whose author is no device of the account");
            }
            None => {}
        }
        if self.standing.limit(&dot.replica).is_some_and(|limit| dot.seq > limit) {
            return violation("nothing beyond a fence is applied", format!("{name} applied {dot:?}"));
        }
        if self.standing.own_revoked() && self.standing.device() != dot.replica.device {
            let sentence = format!("{name} applied {dot:?} after it was told that it is revoked");
            return violation("a revoked device is told nothing any more", sentence);
        }
        Ok(())
    }

    /// Takes out of the expected state what no longer counts.
    fn roll_back(&mut self, global: &Global, store: &dyn StoreRead, because: Dot) -> Result<(), Violation> {
        let heads = self.heads.clone().into_iter();
        let ends = heads.filter_map(|(replica, head)| Some((replica, head, self.standing.end(&replica)?)));
        for (replica, head, end) in ends.filter(|(_, head, end)| head.0 > end.0).collect::<Vec<_>>() {
            let log: Vec<(CommitHash, &Commit)> = global.history.back(replica, head).collect();
            let here = log.iter().find(|(_, commit)| commit.dot.seq == end.0);
            let same = end.0 == 0 || here.is_some_and(|(hash, _)| *hash == end.1);
            let limit = if same { end.0 } else { self.gave_up(store, replica, end.0, because)? };
            self.knowledge.remove(&replica, limit + 1, u64::MAX);
            self.heads.remove(&replica);
            self.seen.remove(&replica);
            for (hash, commit) in log.into_iter().rev() {
                if commit.dot.seq > limit {
                    self.reference.remove(commit);
                    self.ledger.retract(commit);
                    self.changed.extend(rows_of(commit));
                    self.retracted.insert((commit.dot, hash));
                } else {
                    self.heads.insert(replica, (commit.dot.seq, hash));
                    see(self.seen.entry(replica).or_default(), commit);
                }
            }
        }
        Ok(())
    }

    /// Where a device ended a replica of which it had another branch than the fence: at a signature that it held, which
    /// depends on how it came by the branch. It keeps what it gave up.
    fn gave_up(
        &self,
        store: &dyn StoreRead,
        replica: ReplicaId,
        end: u64,
        because: Dot,
    ) -> Result<u64, Violation> {
        let quarantine = read(store.quarantine(None, usize::MAX))?.into_iter();
        let gone = quarantine.filter(|one| one.because == because && one.stored.dot().replica == replica);
        let first = gone.map(|one| one.stored.dot().seq).min();
        match first {
            Some(first) if first <= end + 1 => Ok(first - 1),
            _ => {
                let sentence =
                    format!("{} gave up {first:?} of {replica:?}, which ends at {end}", self.name());
                violation("nothing beyond a fence stays applied", sentence)
            }
        }
    }

    /// The quarantine holds what was taken back, nothing else, and each with the statement that did it.
    fn check_quarantine(&self, store: &dyn StoreRead) -> Result<(), Violation> {
        let quarantine = read(store.quarantine(None, usize::MAX))?;
        let named = |one: &Quarantined| (one.stored.dot(), one.stored.commit.hash());
        let held: BTreeSet<(Dot, CommitHash)> = quarantine.iter().map(named).collect();
        if held != self.retracted || !quarantine.iter().all(|one| self.standing.heard(&one.because)) {
            let sentence = format!("{} holds {held:?}, retracted are {:?}", self.name(), self.retracted);
            return violation("what is taken back is in quarantine", sentence);
        }
        let gone = self.retracted.iter().map(|(dot, _)| *dot).filter(|dot| !self.knowledge.contains(dot));
        self.ledger.check_void(self.name(), store, &gone.collect())
    }

    fn check_deps(&self, dot: Dot) -> Result<(), Violation> {
        for (replica, (seq, _)) in self.heads.iter().filter(|(replica, _)| **replica != dot.replica) {
            let said = self.seen.get(&dot.replica).and_then(|seen| seen.get(replica)).copied().unwrap_or(0);
            if said < *seq {
                let sentence =
                    format!("{}'s {dot:?} states {said} of {seq} commits of {replica:?}", self.name());
                return violation("a commit states all that its author had seen", sentence);
            }
        }
        Ok(())
    }

    fn check_overwrites(&self, commit: &Commit) -> Result<(), Violation> {
        for op in &commit.ops {
            let key = (op.table.clone(), op.row.clone());
            let last = self.reference.overwritten(&key, op.kind, op.fields.keys());
            if last.is_some_and(|last| last >= place(commit)) {
                return violation(
                    "a stamp exceeds each stamp that it overwrites",
                    format!("{} wrote {:?} to {} below {last:?}", self.name(), commit.stamp(), op.row),
                );
            }
        }
        Ok(())
    }

    fn check_heads(&self, recovered: &Recovered) -> Result<(), Violation> {
        let heads = || recovered.heads.iter().map(|(replica, head)| (*replica, (head.seq, head.hash)));
        if recovered.position != self.position
            || !heads().eq(self.heads.iter().map(|(of, head)| (*of, *head)))
        {
            let heads: BTreeMap<ReplicaId, (u64, CommitHash)> = heads().collect();
            return violation(
                "position, knowledge and log say the same",
                format!(
                    "{}'s log has {} commits, its position is {}; heads {heads:?} beside {:?} in the log",
                    self.name(),
                    self.position,
                    recovered.position,
                    self.heads
                ),
            );
        }
        Ok(())
    }

    fn check_clock(&mut self, recovered: &Recovered) -> Result<(), Violation> {
        let (ms, before) = (recovered.clock.ms(), self.clock);
        let led = before.max(self.clock_max).ms() + CLOCK_MARGIN_MS
            > self.wall_ms_min.saturating_add(self.drift_ms_max);
        if recovered.clock < before && !led {
            let sentence = format!("{}'s clock went from {before:?} to {:?}", self.name(), recovered.clock);
            return violation("a clock never goes back", sentence);
        }
        let reason_ms = before.ms().max(self.wall_ms_max).max(self.stamp_ms_max);
        if ms > reason_ms + CARRY_MS {
            let sentence =
                format!("{}'s clock shows {ms} ms, nothing else more than {reason_ms}", self.name());
            return violation("a clock is moved by the wall and by what was applied", sentence);
        }
        let bound_ms = self.wall_ms_max + self.drift_ms_max + CARRY_MS;
        if ms > before.ms() && ms > bound_ms {
            let ahead_ms = ms - self.wall_ms_max;
            return violation(
                "no peer pulls a clock past the drift bound",
                format!("{}'s stamps went {ahead_ms} ms ahead of its wall clock", self.name()),
            );
        }
        self.clock = recovered.clock;
        self.wall_ms_max = self.wall_ms_last;
        self.wall_ms_min = self.wall_ms_last;
        (self.stamp_ms_max, self.clock_max) = (0, Hlc::default());
        Ok(())
    }

    fn check_row(&self, store: &dyn StoreRead, key: &Key) -> Result<(), Violation> {
        let state = read(store.row(&key.0, &key.1))?.unwrap_or_default();
        if state.visible() && !self.reference.visible(key) {
            let sentence = format!("{} shows row {}, which is deleted", self.name(), key.1);
            return violation("a deleted row is not visible without a newer create", sentence);
        }
        if !self.reference.is(key, &state) {
            let (stored, expected) = (view(&state), self.reference.row(key));
            return violation(
                "rows are what the reference merge of the log gives",
                format!("{}'s row {} is {stored:?}, and should be {expected:?}", self.name(), key.1),
            );
        }
        Ok(())
    }

    /// What an application is shown of the table of plans, which is what the reference merge makes visible.
    pub fn check_shown(&self, rows: &BTreeMap<String, BTreeMap<String, Value>>) -> Result<(), Violation> {
        let due = self.reference.rows().filter(|(table, _)| table.as_str() == TABLE).filter_map(|key| {
            let row = self.reference.row(key);
            let fields = row.fields.into_iter().map(|(name, (_, value))| (name.to_string(), value)).collect();
            row.created.map(|_| (key.1.to_string(), fields))
        });
        let due: BTreeMap<String, BTreeMap<String, Value>> = due.collect();
        if *rows != due {
            let sentence = format!("{} shows {rows:?}, and should show {due:?}", self.name());
            return violation("an application is shown what the log amounts to", sentence);
        }
        Ok(())
    }

    /// The two rows are only ever written together, so one without the other is a torn transaction.
    fn check_pair(&self, store: &dyn StoreRead) -> Result<(), Violation> {
        let [left, right] = PAIR.map(|row| {
            let (table, row) = key(TABLE, row)?;
            Ok(read(store.row(&table, &row))?.as_ref().map(view))
        });
        let (left, right) = (left?, right?);
        if left != right {
            let sentence = format!("{} shows {left:?} beside {right:?}", self.name());
            return violation("transactions are atomic", sentence);
        }
        Ok(())
    }

    /// A transaction was answered with success: it is in the device's own log at once, in the place given.
    pub fn acknowledged(
        &mut self,
        global: &mut Global,
        store: &dyn StoreRead,
        written: &Written,
    ) -> Result<(), Violation> {
        let mut found = read(store.applied(written.position, 1))?;
        if global.forked.contains(&self.device()) {
            // Taken back between the answer and this look, it is in quarantine.
            let gone = by_position(store)?.remove(&written.position);
            found.splice(..0, gone.map(|gone| gone.stored));
        }
        if found.first().is_none_or(|stored| stored.commit.stamp() != written.stamp) {
            return violation(
                "an acknowledged write is in the device's own store",
                format!(
                    "{} answered {:?}, and it is not at position {}",
                    self.name(),
                    written.stamp,
                    written.position
                ),
            );
        }
        let hash = found.first().map(|stored| global.history.note(&stored.commit).0).unwrap_or_default();
        global.acknowledged.insert((written.stamp.dot, hash), self.node);
        Ok(())
    }

    /// Everything over again and in full, whether it changed or not: rows, tables, digest, acknowledged writes.
    pub fn check_all(&mut self, global: &mut Global, store: &dyn StoreRead) -> Result<(), Violation> {
        self.observe(global, store)?;
        let recovered = read(store.recover())?;
        self.check_heads(&recovered)?;
        self.check_quarantine(store)?;
        self.check_pair(store)?;
        self.reference.rows().try_for_each(|key| self.check_row(store, key))?;
        let (mut digest, mut rows) = (0u128, 0);
        for table in read(store.tables())? {
            let unbounded = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            for (row, state) in read(store.scan(&table, unbounded, usize::MAX))? {
                digest = digest.wrapping_add(state.digest(&table, &row));
                rows += 1;
            }
        }
        let nothing = RowState::default();
        let written = self.reference.rows().filter(|key| !self.reference.is(key, &nothing)).count();
        if digest != recovered.digest || rows != written {
            return violation(
                "the digest is that of all rows, and there are no others",
                format!(
                    "{} has {rows} rows of {written}, digest {digest:x} beside {:x}",
                    self.name(),
                    recovered.digest
                ),
            );
        }
        for ((dot, hash), node) in &global.acknowledged {
            if *node == self.node && !self.has(&global.history, dot, hash) {
                let sentence = format!("{} answered {dot:?} and no longer has it", self.name());
                return violation("an acknowledged write survives a crash", sentence);
            }
        }
        Ok(())
    }
}

fn key(table: &str, row: &str) -> Result<Key, Violation> {
    let key = TableName::new(table).and_then(|table| Ok((table, RowKey::new(row)?)));
    key.or_else(|error| violation("names in a plan are valid", error.to_string()))
}

fn rows_of(commit: &Commit) -> impl Iterator<Item = Key> + '_ {
    commit.ops.iter().map(|op| (op.table.clone(), op.row.clone()))
}

/// Adds what a commit's author had seen.
fn see(seen: &mut BTreeMap<ReplicaId, u64>, commit: &Commit) {
    for (replica, seq) in &commit.deps {
        let seen = seen.entry(*replica).or_default();
        *seen = (*seen).max(*seq);
    }
}

/// What is in quarantine, by the position that it had.
fn by_position(store: &dyn StoreRead) -> Result<BTreeMap<u64, Quarantined>, Violation> {
    let quarantine = read(store.quarantine(None, usize::MAX))?;
    Ok(quarantine.into_iter().map(|one| (one.stored.position, one)).collect())
}

fn view(state: &RowState) -> RowView {
    let cells = state.cells().iter();
    RowView {
        created: state.ins().map(place_of),
        deleted: state.del().map(place_of),
        fields: cells.map(|(name, cell)| (name, (place_of(cell.stamp), cell.value))).collect(),
    }
}

/// Devices that know the same have the same rows. Each comes with its letter, knowledge and state digest. Those that
/// know different commits under the same names are no concern of it: `same` tells.
pub fn check_equal(
    devices: &[(usize, &Knowledge, u128)],
    same: impl Fn(usize, usize) -> bool,
) -> Result<(), Violation> {
    for (at, (a, knowledge, digest)) in devices.iter().enumerate() {
        for (b, other, theirs) in &devices[at + 1..] {
            if digest != theirs && knowledge == other && same(*a, *b) {
                let sentence = format!("{} and {} differ", letter(*a), letter(*b));
                return violation("equal knowledge, equal state", sentence);
            }
        }
    }
    Ok(())
}

/// Bounded buffers are.
pub fn check_bounds(node: usize, waiting_bytes: u64, config: &Config) -> Result<(), Violation> {
    if waiting_bytes > config.reorder_bytes_max as u64 {
        let (name, bytes, max) = (letter(node), waiting_bytes, config.reorder_bytes_max);
        return violation(
            "buffers stay within bounds",
            format!("{name} holds {bytes} waiting bytes of {max}"),
        );
    }
    Ok(())
}

/// Faults that were injected, so that devices may report them.
#[derive(Debug, Clone, Default)]
pub struct Injected {
    /// Frames were damaged on their way.
    pub damaged: bool,
    /// Who seemed to say what must not be said, and to whom: both may report the other.
    pub suspects: BTreeSet<DeviceId>,
    /// Devices were revoked.
    pub revoked: bool,
}

/// Devices report no fault that was not injected.
pub fn check_event(
    node: usize,
    event: &Event,
    injected: &Injected,
    forked: &BTreeSet<DeviceId>,
) -> Result<(), Violation> {
    let unexpected = match event {
        Event::Fork { dot, .. } => !forked.contains(&dot.replica.device),
        Event::Forked { replica, .. } | Event::Rewound { from: replica, .. } => {
            !forked.contains(&replica.device)
        }
        Event::Diverged { .. } => true,
        Event::Revoked { .. } => !injected.revoked,
        Event::PeerFault { device, .. } if injected.suspects.contains(device) => false,
        Event::PeerFault { fault, .. } => match fault {
            Fault::Silent | Fault::HandshakeTimeout => false,
            Fault::Protocol => !injected.damaged,
            Fault::Revoked => !injected.revoked,
            _ => true,
        },
        _ => false,
    };
    if unexpected {
        return violation(
            "no fault is reported that was not injected",
            format!("{}: {event:?}", letter(node)),
        );
    }
    Ok(())
}

//! Pairing: an invitation, and the attempts of devices to join by it, in virtual time of their own. The state machines
//! are the real ones; nothing else of a run has a part in it.
//!
//! Invariant: what comes of an invitation depends on it and on the seed alone, so it may stand anywhere in a plan.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use engine::identity::{DeviceCert, PeerKey, SecretKey};
use engine::pairing::{
    ATTEMPTS_MAX, CONFIRM_MS, InviterEvent, InviterSession, Joiner, JoinerEvent, OFFER_MS, Offer,
    PairingCode, PairingError, Terms, Turn,
};
use engine::testing::{EPOCH_MS, test_identity, test_root};
use serde::{Deserialize, Serialize};

use crate::marks::{Marks, Situation};
use crate::oracle::{Violation, violation};

/// Most attempts at one invitation in a plan.
pub(crate) const ATTEMPTS: usize = 16;
/// Longest time of a message, in milliseconds. An exchange of this pace is over before the joiner loses patience.
pub(crate) const STEP_MS_MAX: u64 = 60_000;
/// Latest begin of an attempt, in milliseconds after the invitation.
pub(crate) const BEGIN_MS_MAX: u64 = OFFER_MS + 60_000;

/// A device's attempt to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// When it begins, in milliseconds after the invitation was made.
    pub at_ms: u64,
    /// How long each message takes, and the inviting user's answer, in milliseconds.
    pub step_ms: u64,
    /// The code that was typed.
    pub code: Typed,
    /// So many messages arrive before the channel breaks; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_after: Option<u8>,
    /// Whether somebody sits in the middle, with a channel to each side, and passes everything on.
    #[serde(default)]
    pub relayed: bool,
}

/// What somebody typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Typed {
    /// The code.
    Right,
    /// The code's number, and other words.
    OtherWords,
    /// Another number.
    OtherNumber,
}

impl Attempt {
    pub(crate) fn possible(&self) -> bool {
        self.at_ms <= BEGIN_MS_MAX && (1..=STEP_MS_MAX).contains(&self.step_ms)
    }

    /// Whether it must succeed, if nobody else is before it.
    fn good(&self) -> bool {
        self.code == Typed::Right
            && self.cut_after.is_none()
            && !self.relayed
            && self.at_ms + 5 * self.step_ms < OFFER_MS
    }

    /// Whether both sides hear each other to the end.
    fn whole(&self) -> bool {
        self.cut_after.is_none()
    }
}

/// Both ends of a channel, and how it ended for them.
struct Channel<'a> {
    attempt: &'a Attempt,
    key: PeerKey,
    joiner: Option<Joiner>,
    inviter: InviterSession,
    arrived: u8,
    replies: u32,
    joined: Option<Result<DeviceCert, PairingError>>,
    admitted: Option<Result<DeviceCert, PairingError>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Begin,
    ToInviter(Vec<u8>),
    ToJoiner(Vec<u8>),
    Answer,
    Deadline,
}

/// One invitation as it goes on.
struct Room<'a> {
    seed: u64,
    offer: Offer,
    code: PairingCode,
    channels: Vec<Channel<'a>>,
    /// What is due when, in the order in which it was arranged, on which channel.
    due: BinaryHeap<Reverse<(u64, u64, usize, Due)>>,
    arranged: u64,
    last_reply_ms: u64,
    last_admission_ms: u64,
}

/// Carries an invitation out, and judges what came of it.
pub(crate) fn invite(seed: u64, ask: bool, attempts: &[Attempt], marks: &mut Marks) -> Result<(), Violation> {
    let mut room = Room::new(seed, ask, attempts);
    while let Some(Reverse((now_ms, _, channel, due))) = room.due.pop() {
        room.step(now_ms, channel, due);
    }
    room.judge(marks)
}

impl<'a> Room<'a> {
    fn new(seed: u64, ask: bool, attempts: &'a [Attempt]) -> Room<'a> {
        let inviter = test_identity(0);
        let terms = Terms {
            root: test_root(),
            inviter: inviter.cert,
            others: Vec::new(),
            addresses: Vec::new(),
            admin: false,
            ask,
        };
        let mut offer =
            Offer::new(terms, bytes_of(seed, 0), 0, EPOCH_MS).expect("the terms of the test account");
        let code = offer.code().clone();
        let channels = attempts.iter().enumerate().map(|(number, attempt)| {
            let key = PeerKey(SecretKey::from_bytes(&bytes_of(seed, 1 + number as u64)).public());
            let seen = if attempt.relayed { middle() } else { key };
            Channel {
                attempt,
                key,
                joiner: None,
                inviter: offer.session(seen),
                arrived: 0,
                replies: 0,
                joined: None,
                admitted: None,
            }
        });
        let channels: Vec<Channel<'_>> = channels.collect();
        let mut room = Room {
            seed,
            offer,
            code,
            channels,
            due: BinaryHeap::new(),
            arranged: 0,
            last_reply_ms: 0,
            last_admission_ms: 0,
        };
        for (channel, attempt) in attempts.iter().enumerate() {
            room.arrange(attempt.at_ms, channel, Due::Begin);
        }
        room
    }

    fn arrange(&mut self, at_ms: u64, channel: usize, due: Due) {
        self.arranged += 1;
        self.due.push(Reverse((at_ms, self.arranged, channel, due)));
    }

    fn step(&mut self, now_ms: u64, number: usize, due: Due) {
        let channel = &mut self.channels[number];
        let (to_joiner, to_inviter) = match due {
            Due::Begin => (None, Some(self.begin(now_ms, number))),
            Due::ToInviter(frame) => {
                if !channel.passes() {
                    return;
                }
                let turn = channel.inviter.handle(&mut self.offer, now_ms, &frame);
                (self.inviter_says(now_ms, number, turn), None)
            }
            Due::ToJoiner(frame) => {
                if !channel.passes() {
                    return;
                }
                let Some(joiner) = &mut channel.joiner else { return };
                let turn = joiner.handle(now_ms, &frame);
                (None, channel.joiner_says(turn))
            }
            Due::Answer => {
                let turn = channel.inviter.confirm(&mut self.offer, now_ms, true);
                (self.inviter_says(now_ms, number, turn), None)
            }
            Due::Deadline => {
                let late = channel.joiner.as_mut().map(|joiner| joiner.expire(now_ms));
                let to_inviter = late.and_then(|turn| channel.joiner_says(turn));
                let turn = channel.inviter.expire(&self.offer, now_ms);
                (self.inviter_says(now_ms, number, turn), to_inviter)
            }
        };
        let arrives_ms = now_ms + self.channels[number].attempt.step_ms;
        to_joiner.into_iter().for_each(|frame| self.arrange(arrives_ms, number, Due::ToJoiner(frame)));
        to_inviter.into_iter().for_each(|frame| self.arrange(arrives_ms, number, Due::ToInviter(frame)));
    }

    /// A device begins to join. Returns its first message.
    fn begin(&mut self, now_ms: u64, number: usize) -> Vec<u8> {
        let channel = &mut self.channels[number];
        let typed = match channel.attempt.code {
            Typed::Right => self.code.clone(),
            Typed::OtherWords => other_code(&self.code, self.code.nameplate()),
            Typed::OtherNumber => other_code(&self.code, 10 + (self.code.nameplate() - 9) % 90),
        };
        let remote = if channel.attempt.relayed { middle() } else { test_identity(0).peer_key() };
        let seed = bytes_of(self.seed, 1_000 + number as u64);
        let (joiner, frame) =
            Joiner::start(&typed, channel.key, remote, "new", seed, now_ms).expect("a valid name");
        let deadlines =
            [joiner.deadline_ms(), channel.inviter.deadline_ms(&self.offer)].map(|at| at.unwrap_or(now_ms));
        channel.joiner = Some(joiner);
        for at_ms in deadlines.into_iter().filter(|at_ms| *at_ms < u64::MAX) {
            self.arrange(at_ms.max(now_ms), number, Due::Deadline);
        }
        frame
    }

    fn inviter_says(&mut self, now_ms: u64, number: usize, turn: Turn<InviterEvent>) -> Option<Vec<u8>> {
        let channel = &mut self.channels[number];
        match turn.event {
            Some(InviterEvent::Confirm { .. }) => {
                self.arrange(now_ms + self.channels[number].attempt.step_ms, number, Due::Answer);
                self.arrange(now_ms + CONFIRM_MS, number, Due::Deadline);
            }
            Some(InviterEvent::Admitted(cert)) => {
                channel.admitted = Some(Ok(cert));
                self.last_admission_ms = now_ms;
            }
            Some(InviterEvent::Failed(error)) => channel.admitted = Some(Err(error)),
            None if turn.frame.is_some() => {
                channel.replies += 1;
                self.last_reply_ms = now_ms;
            }
            None => {}
        }
        turn.frame
    }

    fn judge(&self, marks: &mut Marks) -> Result<(), Violation> {
        let admitted = |channel: &&Channel<'_>| matches!(channel.admitted, Some(Ok(_)));
        let number = self.channels.iter().filter(admitted).count();
        if number > 1 {
            return violation("a pairing code admits one device", format!("{number} devices were admitted"));
        }
        let replies: u32 = self.channels.iter().map(|channel| channel.replies).sum();
        if replies > ATTEMPTS_MAX {
            return violation(
                "a pairing code can be tried three times",
                format!("{replies} tries were answered"),
            );
        }
        if self.last_reply_ms >= OFFER_MS || self.last_admission_ms >= OFFER_MS + CONFIRM_MS {
            let (reply_ms, admission_ms) = (self.last_reply_ms, self.last_admission_ms);
            let sentence = format!(
                "the last try was answered at {reply_ms} ms, the last device admitted at {admission_ms} ms"
            );
            return violation("an invitation stands for five minutes", sentence);
        }
        self.channels.iter().try_for_each(Channel::judge)?;
        let tries = self.channels.len() as u32;
        if number == 0 && tries <= ATTEMPTS_MAX && self.channels.iter().any(|channel| channel.attempt.good())
        {
            return violation("who knows the code is admitted", "nobody was".into());
        }
        self.note(marks);
        Ok(())
    }

    fn note(&self, marks: &mut Marks) {
        let failed = |error: PairingError| {
            self.channels
                .iter()
                .any(|channel| channel.admitted.as_ref().is_some_and(|end| *end == Err(error)))
        };
        marks.note(
            Situation::Paired,
            self.channels.iter().any(|channel| matches!(channel.joined, Some(Ok(_)))),
        );
        marks.note(Situation::CodeUsedUp, failed(PairingError::AlreadyUsed));
        marks.note(Situation::CodeTriedTooOften, failed(PairingError::TooManyAttempts));
        marks.note(Situation::CodeWrong, failed(PairingError::WrongCode));
        marks.note(Situation::CodeExpired, failed(PairingError::Expired));
        marks.note(
            Situation::PairingInTheMiddle,
            self.channels.iter().any(|channel| channel.attempt.relayed && channel.replies > 0),
        );
    }
}

impl Channel<'_> {
    /// Whether one more message gets through.
    fn passes(&mut self) -> bool {
        self.arrived += 1;
        self.attempt.cut_after.is_none_or(|most| self.arrived <= most)
    }

    fn joiner_says(&mut self, turn: Turn<JoinerEvent>) -> Option<Vec<u8>> {
        match turn.event {
            Some(JoinerEvent::Joined(joined)) => self.joined = Some(Ok(joined.cert.clone())),
            Some(JoinerEvent::Failed(error)) => self.joined = Some(Err(error)),
            None => {}
        }
        turn.frame
    }

    fn judge(&self) -> Result<(), Violation> {
        let Channel { attempt, key, .. } = self;
        if let Some(Ok(cert)) = &self.admitted {
            if attempt.code != Typed::Right {
                return violation("who is admitted knew the code", format!("not this attempt: {attempt:?}"));
            }
            if attempt.relayed || cert.key != *key {
                let sentence = format!("{:?} was, by this attempt: {attempt:?}", cert.key);
                return violation("nobody in the middle is admitted", sentence);
            }
        }
        match (&self.joined, &self.admitted) {
            // The last message of all may be lost: then one side knows more.
            (None, _) | (_, None) if !attempt.whole() => Ok(()),
            (Some(Ok(ours)), Some(Ok(theirs))) if ours == theirs => Ok(()),
            // A refusal and the end of the time can cross.
            (Some(Err(_)), Some(Err(PairingError::Expired))) => Ok(()),
            (Some(Err(ours)), Some(Err(theirs))) if ours == theirs => Ok(()),
            (Some(Err(_)), Some(_)) if !attempt.whole() => Ok(()),
            (joined, admitted) => violation(
                "both sides of a pairing tell the same",
                format!("the joining side {joined:?}, the inviting side {admitted:?}"),
            ),
        }
    }
}

/// Who sits in the middle.
fn middle() -> PeerKey {
    PeerKey(SecretKey::from_bytes(&[99; 32]).public())
}

/// Another code, with this number.
fn other_code(right: &PairingCode, number: u8) -> PairingCode {
    let words = ["zoo-zoo-zoo", "zoo-zoo-abandon"];
    let code = |words| PairingCode::parse(&format!("{number}-{words}")).expect("a well-formed code");
    if code(words[0]) == *right { code(words[1]) } else { code(words[0]) }
}

fn bytes_of(seed: u64, number: u64) -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes
}

//! The transport of the simulator: [`SimTransport`] carries frames between simulated machines inside turmoil, over
//! its TCP (as streams) or its UDP (as datagrams); [`FaultyLink`] is a decorator that loses, doubles, damages, delays
//! and slows frames; [`SkewedClock`] is a machine's wrong wall clock.
//!
//! A peer's key is claimed, not proven: that stands in for the authentication of a real transport.
//!
//! Architecture invariants: everything depends on virtual time and on seeds alone (ordered maps, biased selects); every
//! queue has a bound; a connection that has gone dead without an error, as turmoil's do in a partition, is noticed.

mod clock;
mod datagram;
mod faulty;
mod framing;
mod stream;
mod transport;

pub use clock::{Skew, SkewedClock};
pub use faulty::{FaultyLink, LinkCounts, LinkOptions, LinkSettings};
pub use transport::{Form, Options, Roamer, SimTransport};

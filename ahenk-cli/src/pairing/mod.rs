//! Pairing as people meet it: the inviter's offer over the transport's pairing channels, and the
//! joiner's search for it. What is said on a channel is `engine::pairing`'s business.
//!
//! Invariants: a code is shown to the user and is in no log; each outcome has its own words and its
//! own kind of error, on both sides.

mod invite;
mod join;

pub(crate) use invite::{InviteStep, Wanted, invite};
pub(crate) use join::{Joining, join};

use engine::pairing::PairingError;

use crate::error::{CliError, Kind};

/// What a failed pairing means for the user of either side.
fn pairing_error(error: PairingError) -> CliError {
    let (kind, hint) = match error {
        PairingError::WrongCode => (Kind::NotAuthorised, "compare the code on both screens; each try counts"),
        PairingError::NoSuchOffer => (Kind::NotFound, "read the code again from the inviting device"),
        PairingError::Expired | PairingError::AlreadyUsed => {
            (Kind::Conflict, "`ahenk-cli device invite` makes a new code")
        }
        PairingError::TooManyAttempts => {
            (Kind::NotAuthorised, "if the tries were not yours, somebody else is trying to join")
        }
        PairingError::Declined => (Kind::NotAuthorised, "the user of the inviting device said no"),
        PairingError::BadMessage => (
            Kind::Network,
            "use the same version of ahenk-cli on both devices; if it is the same, someone is interfering with the connection",
        ),
        PairingError::VersionMismatch { .. } => {
            (Kind::Network, "use the same version of ahenk-cli on both devices")
        }
        PairingError::BadCertificate(_) => {
            (Kind::NotAuthorised, "do not trust the inviting device before you know what is wrong with it")
        }
    };
    CliError::new(kind, error).hint(hint)
}

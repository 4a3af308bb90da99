//! Pairing as people meet it.
use crate::error::{CliError, Result};
use crate::service::{Caller, Context};

pub(crate) async fn invite(_: &Context, _ask: bool, _addresses: Vec<String>, _: &mut Caller) -> Result<()> {
    Err(CliError::internal("under construction"))
}

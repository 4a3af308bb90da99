//! `demo`
use super::Env;
use crate::error::Result;
/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) async fn run(_: &Env, _: Args) -> Result<()> {
    Ok(())
}

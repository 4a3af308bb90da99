//! `batch`: several operations of all kinds in one transaction.

use ahenk::{Fields, TransactionError};
use engine::commit::OpKind;
use serde::{Deserialize, Serialize};

use super::json::JsonFields;
use super::no_row;
use crate::error::{CliError, Result};
use crate::service::Context;

/// One operation: what one line of a batch says, and with more beside it what `oplog` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operation {
    pub(crate) kind: OpKind,
    pub(crate) table: String,
    pub(crate) row: String,
    #[serde(default)]
    pub(crate) fields: JsonFields,
}

/// What a batch has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Operations that are durable.
    pub(crate) operations: u64,
    /// Transactions that they took.
    pub(crate) transactions: u64,
}

/// Carries out operations in order, in one transaction: all or none of them.
pub(super) async fn apply(context: &Context, operations: &[Operation]) -> Result<Applied> {
    if operations.is_empty() {
        return Ok(Applied::default());
    }
    let mut missing = None;
    let result = context
        .db
        .transaction(|transaction| {
            missing = None;
            for operation in operations {
                let Operation { kind, table, row, fields } = operation;
                let fields = || Fields(fields.0.clone());
                let there = match kind {
                    OpKind::Put => transaction.put(table, row, fields()).map(|()| true),
                    OpKind::Replace => transaction.replace(table, row, fields()).map(|()| true),
                    OpKind::Update => match transaction.get(table, row)? {
                        Some(_) => transaction.update(table, row, fields()).map(|()| true),
                        None => Ok(false),
                    },
                    OpKind::Delete => transaction.delete(table, row),
                }?;
                if !there {
                    missing = Some(operation);
                    return Err(TransactionError::Aborted("a row is not there".to_owned()));
                }
            }
            Ok(())
        })
        .await;
    match (result, missing) {
        (Ok(()), _) => Ok(Applied { operations: operations.len() as u64, transactions: 1 }),
        (Err(TransactionError::Aborted(_)), Some(Operation { table, row, .. })) => {
            Err(no_row(context, table, row))
        }
        (Err(error), _) => Err(CliError::from(error)),
    }
}

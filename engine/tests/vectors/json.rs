//! How the parts of the protocol are written in the vectors. The checker reads these forms.

use engine::commit::{Commit, OpKind};
use engine::identity::{DeviceCert, ReplicaId};
use engine::knowledge::Knowledge;
use engine::statement::{Branch, Fence, Statement};
use engine::value::Value;
use serde_json::{Value as Json, json};

pub(crate) fn hex(bytes: &[u8]) -> String {
    engine::identity::hex(bytes)
}

pub(crate) fn replica(replica: &ReplicaId) -> Json {
    json!({ "device": hex(replica.device.0.as_bytes()), "incarnation": replica.incarnation.to_string() })
}

pub(crate) fn cert(cert: &DeviceCert) -> Json {
    json!({
        "account": hex(&cert.account.0),
        "key": hex(&cert.key.0),
        "name": cert.name,
        "issued_ms": cert.issued_ms.to_string(),
        "admin": cert.admin,
        "sig": hex(&cert.sig.0),
    })
}

pub(crate) fn value(value: &Value) -> Json {
    match value {
        Value::Null => json!(["null"]),
        Value::Bool(value) => json!(["bool", value]),
        Value::Int(value) => json!(["int", value.to_string()]),
        Value::Float(value) => json!(["float", hex(&value.to_bits().to_be_bytes())]),
        Value::Text(text) => json!(["text", text]),
        Value::Bytes(bytes) => json!(["bytes", hex(bytes)]),
        Value::List(items) => json!(["list", items.iter().map(self::value).collect::<Vec<_>>()]),
        Value::Map(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, value)| json!([key, self::value(value)])).collect();
            json!(["map", entries])
        }
    }
}

pub(crate) fn commit(commit: &Commit) -> Json {
    let kind = |kind| match kind {
        OpKind::Put => "put",
        OpKind::Update => "update",
        OpKind::Delete => "delete",
        OpKind::Replace => "replace",
    };
    let op = |op: &engine::commit::Op| {
        let fields: Vec<_> = op.fields.iter().map(|(name, v)| json!([name.as_str(), value(v)])).collect();
        json!({ "kind": kind(op.kind), "table": op.table.as_str(), "row": op.row.as_str(), "fields": fields })
    };
    json!({
        "replica": replica(&commit.dot.replica),
        "seq": commit.dot.seq.to_string(),
        "prev": hex(&commit.prev.0),
        "ms": commit.hlc.ms().to_string(),
        "counter": commit.hlc.counter(),
        "deps": heads(commit.deps.iter().map(|(replica, seq)| (*replica, *seq))),
        "introduces": commit.introduces.as_deref().map(cert),
        "statement": commit.statement.as_deref().map(statement),
        "ops": commit.ops.iter().map(op).collect::<Vec<_>>(),
    })
}

fn statement(statement: &Statement) -> Json {
    let fence = |fence: &Fence| json!([fence.seq.to_string(), hex(&fence.hash.0), hex(&fence.sig.0)]);
    match statement {
        Statement::Certify(new) => json!({ "kind": "certify", "cert": cert(new) }),
        Statement::Revoke(revocation) => {
            let fences = revocation.fences.iter().map(|(of, one)| json!([of.to_string(), fence(one)]));
            json!({
                "kind": "revoke",
                "device": hex(revocation.device.0.as_bytes()),
                "issued_ms": revocation.issued_ms.to_string(),
                "reason": revocation.reason,
                "fences": fences.collect::<Vec<_>>(),
            })
        }
        Statement::Fork(proof) => {
            let branch = |branch: &Branch| {
                let contents: Vec<_> = branch.contents.iter().map(|content| hex(&content.0)).collect();
                json!([contents, hex(&branch.sig.0)])
            };
            json!({
                "kind": "fork",
                "author": cert(&proof.author),
                "incarnation": proof.incarnation.to_string(),
                "seq": proof.seq.to_string(),
                "end": hex(&proof.hash.0),
                "branches": proof.branches.iter().map(branch).collect::<Vec<_>>(),
            })
        }
    }
}

pub(crate) fn heads(heads: impl IntoIterator<Item = (ReplicaId, u64)>) -> Json {
    heads.into_iter().map(|(of, seq)| json!([replica(&of), seq.to_string()])).collect()
}

pub(crate) fn knowledge(knowledge: &Knowledge) -> Json {
    let ranges = |ranges: &[(u64, u64)]| -> Json {
        ranges.iter().map(|(first, last)| json!([first.to_string(), last.to_string()])).collect()
    };
    knowledge.iter().map(|(of, set)| json!([replica(of), ranges(set.ranges())])).collect()
}

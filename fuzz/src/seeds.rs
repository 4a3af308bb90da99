//! What fuzzing begins with: valid input of each kind, from the test vectors and from the engine itself.

use engine::hlc::Hlc;
use engine::prng::Prng;
use engine::statement::Statement;
use engine::testing::{Author, EPOCH_MS, test_identity, test_root};
use engine::wire::frame::{pack, unpack};
use serde_json::Value as Json;

const VECTORS: &str = include_str!("../../docs/vectors.json");
/// Random scripts for each target that reads one.
const SCRIPTS: u64 = 24;

/// An input: its target, a name for its file, and what it is.
pub type Seed = (&'static str, String, Vec<u8>);

/// All seeds, the same with each call.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    vectors(&mut seeds);
    statements(&mut seeds);
    scripts(&mut seeds);
    files(&mut seeds);
    seeds
}

fn bytes(hex: &Json) -> Vec<u8> {
    let hex = hex.as_str().expect("text").as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal") as u8;
    hex.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn vectors(seeds: &mut Vec<Seed>) {
    let vectors: Json = serde_json::from_str(VECTORS).expect("JSON");
    let list = |kind: &str| vectors[kind].as_array().cloned().unwrap_or_default();
    for kind in ["control", "ops", "accepted", "refused"] {
        for (n, vector) in list(kind).iter().enumerate() {
            let frame = bytes(&vector["bytes"]);
            let name = format!("{kind}-{n}");
            seeds.push(("frame", format!("{name}-whole"), frame.clone()));
            if frame.len() > 6 {
                seeds.push(("frame", name.clone(), [&frame[1..2], &frame[6..]].concat()));
            }
            let Ok((_, payload)) = unpack(&frame) else { continue };
            let step = [&[0, payload.len() as u8, (payload.len() >> 8) as u8], &payload[..]].concat();
            seeds.push(("member", name.clone(), [&[1], &step[..]].concat()));
            seeds.push(("stranger", name.clone(), [&[n as u8 % 6], &step[..]].concat()));
            seeds.push(("message", name, payload));
        }
    }
    for kind in ["commits", "statements"] {
        for (n, vector) in list(kind).iter().enumerate() {
            seeds.push(("commit", format!("{kind}-{n}"), bytes(&vector["bytes"])));
        }
    }
    let pairing = &vectors["pairing"];
    for name in ["start", "reply", "join", "grant"] {
        let message = bytes(&pairing[name]);
        let script = [&[1, 1, message.len() as u8, (message.len() >> 8) as u8], &message[..]].concat();
        seeds.push(("pairing", name.to_owned(), script));
    }
    for name in ["code", "invitation"] {
        let text = pairing[name].as_str().expect("text");
        seeds.push(("invitation", name.to_owned(), text.as_bytes().to_vec()));
    }
}

fn statements(seeds: &mut Vec<Seed>) {
    for n in [0, 3] {
        let cert = test_identity(n).cert;
        let plain = postcard::to_stdvec(&cert).expect("plain data");
        seeds.push(("certificate", format!("valid-{n}"), [&[0], &plain[..]].concat()));
        seeds.push(("certificate", format!("signed-{n}"), [&[1], &plain[..]].concat()));
        let (commit, _) = Statement::Certify(cert).into_commit(&test_root(), Hlc::new(EPOCH_MS, 0));
        seeds.push(("commit", format!("certify-{n}"), commit.encode()));
    }
    let mut author = Author::new(3);
    let (commit, _) = author.commit(Hlc::new(EPOCH_MS, 1), Default::default(), Vec::new());
    seeds.push(("commit", format!("first-{}", commit.hash().0[0]), commit.encode()));
    for (n, payload) in
        [vec![0; 5_000], (0..4_000u16).map(|n| (n % 251) as u8).collect()].into_iter().enumerate()
    {
        let frame = pack(1, &payload).expect("it fits");
        seeds.push(("inflate", format!("deflated-{n}"), frame[10..].to_vec()));
    }
    seeds.push(("inflate", "stored".to_owned(), [&[3, 1, 3, 0, 252, 255], &b"abc"[..]].concat()));
}

/// Random bytes are valid scripts; the fuzzer goes on from the useful ones.
fn scripts(seeds: &mut Vec<Seed>) {
    for target in ["member", "stranger", "pairing", "knowledge", "store_file", "addresses"] {
        for n in 0..SCRIPTS {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&n.to_be_bytes());
            seed[8..8 + target.len()].copy_from_slice(target.as_bytes());
            let mut random = Prng::new(seed);
            let len = 20 + random.below(300);
            let mut script: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            script[0] = n as u8;
            seeds.push((target, format!("script-{n}"), script));
        }
    }
    // The conversations that succeed.
    seeds.push(("pairing", "whole".to_owned(), vec![0; 5]));
    let knowledge = |ranges: &[u8]| [&[0], ranges].concat();
    seeds.push(("knowledge", "empty".to_owned(), knowledge(&[0])));
}

fn files(seeds: &mut Vec<Seed>) {
    let texts: [(&str, u8, &str); 8] = [
        ("array", 0, "[{\"id\":\"a\",\"n\":1},{\"id\":\"b\",\"x\":[1.5,null,{\"$bytes\":\"AAE=\"}]}]"),
        ("array-bad", 0, "[{\"id\":1},,{\"a\":{\"$float\":\"NaN\"}},{\"$map\":{}}] x"),
        (
            "lines",
            1,
            "{\"id\":\"a\",\"t\":\"\\u00e9\"}\n\n{\"id\":2,\"f\":-0.0}\nnot json\n{\"i\":9223372036854775808}\n",
        ),
        ("lines-mark", 1, "\u{feff}{\"id\":\"a\"}\r\n{\"id\":\"b\"}"),
        ("csv", 2, "id,name,n\na,\"x \"\"y\"\"\",1\nb,,2.50\r\nc,\"two\nlines\",007\n"),
        ("csv-bad", 2, "id,name\na,b,c\nd,\"never closed\n"),
        ("csv-names", 2, "id,id,\n1,2,3\n"),
        ("tsv", 3, "id\tn\na\ttrue\nb\t-1.5\n"),
    ];
    for (name, format, text) in texts {
        for look in [0, 1, 8, 48] {
            seeds.push(("import", format!("{name}-{look}"), [&[format, look, 7], text.as_bytes()].concat()));
        }
    }
    for (n, changes) in [&[][..], &[9, 0, 0, 1], &[0, 16, 0, 1], &[208, 251, 1, 1]].iter().enumerate() {
        for kind in 0..2 {
            seeds.push(("store_file", format!("flip-{kind}-{n}"), [&[kind], *changes].concat()));
        }
    }
    let frames: [(&str, &[u8]); 6] = [
        ("greeting", &[2, 3, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 42]),
        ("empty", &[0, 0, 0, 0]),
        ("too-long", &[2, 200, 0x81, 0x80, 0x40, 1]),
        ("two-zeros", &[1, 9, 0x80, 0]),
        ("cut", &[1, 0, 5, 1, 2]),
        ("endless", &[2, 1, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ];
    for (name, bytes) in frames {
        seeds.push(("sync_stream", name.to_owned(), bytes.to_vec()));
    }
}

//! What happens in the demo, told and checked step by step.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value as Json;

use super::stage::{Device, Stage};
use crate::backend::read_item;
use crate::commands::conflicts::why;
use crate::commands::inline;
use crate::data::ConflictEntry;
use crate::error::{CliError, Result};
use crate::output::Output;

/// The table of time zones; see `fixtures/README.md`.
const ZONES: &str = include_str!("../../../fixtures/zone1970.tab");
/// The row that all three devices edit.
const CONTESTED: &str = "Europe/Istanbul";
/// The row of which they edit different fields.
const SHARED: &str = "Asia/Tokyo";
/// The row that one edits and another deletes.
const DELETED: &str = "Antarctica/Troll";

/// What the demo has shown. Field names are stable: `--json` prints them.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Rows imported on the first device.
    rows: u64,
    devices: Vec<Final>,
    /// The conflicts as the device in the middle noted them.
    conflicts: Vec<ConflictEntry>,
    pub(super) took_ms: u64,
    /// Where the homes are, if they were kept.
    pub(super) homes: Option<String>,
}

/// A device at the end.
#[derive(Debug, Serialize)]
struct Final {
    name: String,
    device: String,
    commits: u64,
    digest: String,
}

pub(super) struct Story<'a> {
    stage: &'a Stage,
    out: Output,
    laptop: Device<'a>,
    phone: Device<'a>,
    tablet: Device<'a>,
}

impl<'a> Story<'a> {
    pub(super) fn new(stage: &'a Stage, out: Output) -> Story<'a> {
        let [laptop, phone, tablet] = ["laptop", "phone", "tablet"].map(|name| stage.device(name));
        Story { stage, out, laptop, phone, tablet }
    }

    pub(super) fn play(&self) -> Result<Report> {
        self.pair()?;
        let rows = self.import()?;
        self.relay(rows)?;
        self.edit_apart()?;
        self.reconnect()?;
        let conflicts = self.conflicts()?;
        let devices = self.equal()?;
        Ok(Report { rows, devices, conflicts, took_ms: 0, homes: None })
    }

    fn tell(&self, text: &str) -> Result<()> {
        if self.out.json() { Ok(()) } else { self.out.line(text) }
    }

    fn title(&self, text: &str) -> Result<()> {
        self.tell(&self.out.bold(text))
    }

    fn pair(&self) -> Result<()> {
        self.title("1. Three devices: laptop, phone and tablet")?;
        self.laptop.init()?;
        self.laptop.start()?;
        self.laptop.admit(&self.phone)?;
        self.laptop.admit(&self.tablet)?;
        let known = self.laptop.one(&["device", "list"])?;
        check(known.as_array().is_some_and(|known| known.len() == 3), "the account has three devices")?;
        self.tell("   laptop made an account and admitted the others, by a single-use code each.")
    }

    fn import(&self) -> Result<u64> {
        self.title("2. laptop imports the tz database's zone1970.tab; phone is connected")?;
        let file = self.stage.dir().join("zone1970.tab");
        fs::write(&file, ZONES).map_err(|error| CliError::io("write", &file, &error))?;
        let expected = ZONES.lines().filter(|line| !line.starts_with('#')).count() as u64;
        self.phone.start()?;
        self.sync(&self.laptop)?;
        let columns = ["--comment", "#", "--columns", "codes,coordinates,tz,comments", "--key", "tz"];
        let import = ["import", "zone1970.tab", "--table", "zones"];
        let summary = self.laptop.one(&[&import[..], &columns[..]].concat())?;
        check(summary["written"] == expected && summary["skipped"] == 0, "every line became a row")?;
        let started = Instant::now();
        self.sync(&self.laptop)?;
        self.same(&[&self.laptop, &self.phone])?;
        check(rows(&self.phone)? == expected, "phone has all rows")?;
        let took = started.elapsed().as_millis();
        self.tell(&format!("   {expected} rows written, and on phone within {took} ms of the end."))?;
        Ok(expected)
    }

    fn relay(&self, expected: u64) -> Result<()> {
        self.title("3. laptop goes; tablet comes, and meets only phone")?;
        check(rows(&self.tablet)? == 0, "tablet has no rows before")?;
        self.laptop.stop()?;
        self.tablet.start()?;
        let address = text(&self.phone.one(&["status"])?["listening"][0])?;
        self.tablet.one(&["peer", "add", &address])?;
        self.sync(&self.tablet)?;
        check(rows(&self.tablet)? == expected, "tablet has all rows")?;
        self.same(&[&self.phone, &self.tablet])?;
        self.tell(&format!("   tablet has the {expected} rows too, and never met laptop since they exist:"))?;
        self.tell("   phone passed them on, with laptop's signatures.")
    }

    fn edit_apart(&self) -> Result<()> {
        self.title("4. All are cut off from each other, and all edit the same rows")?;
        self.phone.stop()?;
        self.tablet.stop()?;
        let edits: [(&Device<'_>, &str, &str); 7] = [
            (&self.laptop, CONTESTED, "comments=by laptop"),
            (&self.laptop, SHARED, "visited=true"),
            (&self.laptop, DELETED, "comments=visited once"),
            (&self.phone, CONTESTED, "comments=by phone"),
            (&self.phone, SHARED, "rating=5"),
            (&self.tablet, CONTESTED, "comments=by tablet"),
            (&self.tablet, SHARED, "capital=true"),
        ];
        for (device, row, edit) in edits {
            device.one(&["put", "zones", row, edit])?;
            self.tell(&format!("   {:6}  put zones {row} {edit:?}", device.name))?;
        }
        self.phone.one(&["delete", "zones", DELETED])?;
        self.tell(&format!("   phone   delete zones {DELETED}"))?;
        let digests = self.all().map(digest);
        let [laptop, phone, tablet] = digests;
        let (laptop, phone, tablet) = (laptop?, phone?, tablet?);
        check(laptop != phone && phone != tablet && tablet != laptop, "all three differ now")
    }

    fn reconnect(&self) -> Result<()> {
        self.title("5. They meet again: phone and tablet, phone and laptop, phone and tablet")?;
        self.phone.start()?;
        for other in [&self.tablet, &self.laptop, &self.tablet] {
            other.start()?;
            self.sync(other)?;
            other.stop()?;
        }
        self.phone.stop()?;
        let shared: Vec<Json> = self
            .all()
            .into_iter()
            .map(|device| device.one(&["get", "zones", SHARED]))
            .collect::<Result<_>>()?;
        let merged = |row: &Json| row["visited"] == true && row["rating"] == 5 && row["capital"] == true;
        check(shared.iter().all(merged), "edits of different fields of one row are all there")?;
        self.tell(&format!("   {SHARED}: all three edits are there; different fields do not conflict."))
    }

    fn conflicts(&self) -> Result<Vec<ConflictEntry>> {
        self.title("6. Edits of one field do: the later one wins, and nothing is lost in silence")?;
        let found = self.phone.all(&["conflicts"])?;
        let found: Vec<ConflictEntry> = found.into_iter().map(read_item).collect::<Result<_>>()?;
        let mut by_row = BTreeMap::<&str, Vec<&ConflictEntry>>::new();
        for conflict in &found {
            by_row.entry(&conflict.row).or_default().push(conflict);
        }
        check(by_row.keys().eq([DELETED, CONTESTED].iter()), "these two rows had conflicts, and no others")?;
        for (row, conflicts) in &by_row {
            for conflict in conflicts {
                let lost = &conflict.lost;
                self.tell(&format!("   {row}: {:?} of {} lost", inline(&lost.value.0), lost.by.device))?;
                let won = &conflict.won;
                let what = if won.deleted {
                    "the deletion".to_owned()
                } else {
                    format!("{:?}", inline(&won.value.0))
                };
                self.tell(&format!("      to {what} by {}: {}", won.by.device, why(conflict)))?;
                check(won.by.time_ms >= lost.by.time_ms, "a winner is not older than its loser")?;
            }
        }
        self.check_winners(&by_row)?;
        Ok(found)
    }

    /// What the conflicts say is what the rows hold, on every device.
    fn check_winners(&self, by_row: &BTreeMap<&str, Vec<&ConflictEntry>>) -> Result<()> {
        let edited = by_row.get(CONTESTED).map(Vec::as_slice).unwrap_or_default();
        let last = edited.iter().max_by_key(|conflict| (conflict.won.by.time_ms, conflict.id));
        let Some(last) = last else { return check(false, "there is a winner") };
        for device in self.all() {
            let now = device.one(&["get", "zones", CONTESTED, "comments"])?;
            check(now.as_str() == Some(&*inline(&last.won.value.0)), "all devices show the winner's value")?;
            let left = device.all(&["list", "zones", "--prefix", DELETED])?;
            check(left.is_empty(), "the deleted row is deleted everywhere")?;
        }
        Ok(())
    }

    fn equal(&self) -> Result<Vec<Final>> {
        self.title("7. The digests of the three databases")?;
        let mut ends = Vec::new();
        for device in self.all() {
            let status = device.one(&["status"])?;
            let commits = status["position"].as_u64().unwrap_or_default();
            let (digest, id) = (text(&status["digest"])?, text(&status["device"])?);
            self.tell(&format!("   {:6}  {digest}  ({commits} commits)", device.name))?;
            ends.push(Final { name: device.name.to_owned(), device: id, commits, digest });
        }
        check(ends.windows(2).all(|pair| pair[0].digest == pair[1].digest), "all digests are equal")?;
        self.tell("   are equal: all three hold the same rows, to the last bit.")?;
        Ok(ends)
    }

    fn all(&self) -> [&Device<'a>; 3] {
        [&self.laptop, &self.phone, &self.tablet]
    }

    /// Waits until a device and those that it can reach know the same.
    fn sync(&self, device: &Device<'_>) -> Result<()> {
        let synced = device.one(&["sync", "--timeout", "30"])?;
        check(synced["peers"] == 1, "exactly one other device is met")
    }

    fn same(&self, devices: &[&Device<'_>]) -> Result<()> {
        let digests = devices.iter().map(|device| digest(device)).collect::<Result<Vec<_>>>()?;
        check(digests.windows(2).all(|pair| pair[0] == pair[1]), "the digests are equal")
    }
}

fn digest(device: &Device<'_>) -> Result<String> {
    text(&device.one(&["status"])?["digest"])
}

fn rows(device: &Device<'_>) -> Result<u64> {
    let tables = device.all(&["tables"])?;
    Ok(tables
        .iter()
        .find(|table| table["table"] == "zones")
        .map_or(0, |table| table["rows"].as_u64().unwrap_or(0)))
}

fn text(json: &Json) -> Result<String> {
    json.as_str().map(str::to_owned).ok_or_else(|| CliError::internal("a command left something out"))
}

/// What the demo claims must be so.
fn check(so: bool, claim: &str) -> Result<()> {
    if so { Ok(()) } else { Err(CliError::internal(format!("this should hold, and does not: {claim}"))) }
}

//! `stats`, `metrics` and `info`: counters, the same for Prometheus, and what this installation is.

pub(crate) mod prometheus;
pub(crate) mod serve;

use serde::Serialize;

use super::{Env, ago};
use crate::backend::{Backend, Need};
use crate::error::Result;
use crate::output::{printable, table};
use crate::protocol::{self, Request};
use crate::report::{Stats, Status};

/// Arguments of `metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --serve the metrics are printed once, in the text form that Prometheus
reads. Counters begin anew when the daemon starts.

Examples:
  ahenk-cli metrics > /var/lib/node_exporter/ahenk.prom
  ahenk-cli metrics --serve 9464   at http://127.0.0.1:9464/metrics")]
pub(crate) struct MetricsArgs {
    /// Answer to HTTP at this port of the loopback interface; 0 chooses one and says which
    #[arg(long, value_name = "PORT")]
    serve: Option<u16>,
}

/// What this installation is.
#[derive(Debug, Serialize)]
struct Info {
    version: &'static str,
    /// Of what is printed with `--json`.
    json_version: u64,
    /// Of the database file.
    format: u32,
    /// Of the wire.
    protocol_major: u8,
    protocol_minor: u16,
    /// Between commands and the daemon.
    command_protocol: u32,
    os: &'static str,
    architecture: &'static str,
    features: Vec<&'static str>,
    home: String,
    database_bytes: u64,
    account: String,
    device: String,
    name: String,
    replica: String,
    admin: bool,
    running: bool,
    devices: usize,
    commits: u64,
    tables: usize,
}

async fn read(backend: &Backend) -> Result<Stats> {
    backend.one(Request::Stats).await
}

pub(crate) async fn stats(env: &Env) -> Result<()> {
    env.with_backend(Need::Store, async |backend| env.out.show(&read(backend).await?, human)).await
}

pub(crate) async fn metrics(env: &Env, args: MetricsArgs) -> Result<()> {
    if let Some(port) = args.serve {
        return serve::run(env, port).await;
    }
    env.with_backend(Need::Store, async |backend| {
        env.out.line(prometheus::text(&read(backend).await?).trim_end())
    })
    .await
}

fn human(stats: &Stats) -> String {
    let last = stats
        .last_sync_ms
        .map_or_else(|| "never since the start".to_owned(), |ms| format!("{} ago", ago(ms)));
    let mut lines = vec![
        format!(
            "Commits    {} applied, {} waiting ({} bytes)",
            stats.position, stats.waiting_commits, stats.waiting_bytes
        ),
        format!("Conflicts  {} so far", stats.conflicts),
        format!("Database   {} bytes", stats.database_bytes),
        format!("Last sync  {last}"),
        String::new(),
    ];
    let row = |name: String, traffic: &engine::io::Traffic| {
        let pair = |a: u64, b: u64| format!("{a}/{b}");
        vec![
            name,
            pair(traffic.ops_sent, traffic.ops_received),
            pair(traffic.commits_sent, traffic.commits_received),
            traffic.commits_doubled.to_string(),
            pair(traffic.bytes_sent, traffic.bytes_received),
            pair(traffic.frames_sent, traffic.frames_received),
            traffic.frames_dropped.to_string(),
        ]
    };
    let mut rows = vec![row("all".to_owned(), &stats.total)];
    rows.extend(stats.peers.iter().map(|peer| row(printable(&peer.name), &peer.traffic)));
    lines.push(table(&["SENT/RECEIVED", "OPS", "COMMITS", "DOUBLED", "BYTES", "FRAMES", "DROPPED"], &rows));
    lines.join("\n")
}

pub(crate) async fn info(env: &Env) -> Result<()> {
    let info = env
        .with_backend(Need::Store, async |backend| {
            let status: Status = backend.one(Request::Status).await?;
            let stats = read(backend).await?;
            let tables: Vec<String> =
                backend.one(Request::Data(crate::data::DataRequest::TableNames)).await?;
            Ok(Info {
                version: env!("CARGO_PKG_VERSION"),
                json_version: crate::schema::VERSION,
                format: store::FORMAT,
                protocol_major: engine::wire::frame::MAJOR,
                protocol_minor: engine::wire::message::MINOR,
                command_protocol: protocol::VERSION,
                os: std::env::consts::OS,
                architecture: std::env::consts::ARCH,
                features: if cfg!(feature = "query") { vec!["query"] } else { Vec::new() },
                home: status.home,
                database_bytes: stats.database_bytes,
                account: status.account,
                device: status.device,
                name: status.name,
                replica: status.replica,
                admin: status.admin,
                running: status.running,
                devices: status.peers.len() + 1,
                commits: status.position,
                tables: tables.len(),
            })
        })
        .await?;
    env.out.show(&info, |info| {
        format!(
            "ahenk-cli  {} ({}, {}), file format {}, protocol {}.{}\nHome       {}\nDatabase   {} bytes, {} commits, {} tables\n\
             Account    {}\n           {} devices\nDevice     {}  {}{}\nReplica    {}\nDaemon     {}",
            info.version,
            info.os,
            info.architecture,
            info.format,
            info.protocol_major,
            info.protocol_minor,
            info.home,
            info.database_bytes,
            info.commits,
            info.tables,
            info.account,
            info.devices,
            info.device,
            printable(&info.name),
            if info.admin { ", administrator" } else { "" },
            info.replica,
            if info.running { "running" } else { "not running" },
        )
    })
}

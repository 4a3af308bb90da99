//! The metrics over HTTP, at the loopback interface only.
//!
//! Invariants: one request a connection, of bounded length and time; a bounded number of them at a time; nothing but
//! the metrics is answered.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{prometheus, read};
use crate::backend::{Backend, Need};
use crate::commands::Env;
use crate::error::{CliError, Kind, Result};

/// Longest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// How long a client may take.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) async fn run(env: &Env, port: u16) -> Result<()> {
    env.home.require()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
        CliError::new(Kind::Conflict, format!("cannot listen at port {port}: {error}"))
            .hint("choose another port, or 0 for any that is free")
    })?;
    let url = format!("http://{}/metrics", listener.local_addr().map_err(CliError::internal)?);
    env.out.show(&json!({ "listening": url }), |_| format!("Metrics at {url}"))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // One at a time: a scrape takes milliseconds, and the rest waits in the system's queue.
                if let Ok((stream, _)) = accepted {
                    let _ = timeout(CLIENT_TIME_MAX, serve(env, stream)).await;
                }
            }
            signal = tokio::signal::ctrl_c() => return signal.map_err(CliError::internal),
        }
    }
}

async fn serve(env: &Env, mut stream: TcpStream) {
    let (status, body) = match request(&mut stream).await.as_deref() {
        Some("GET /metrics") => match page(env).await {
            Ok(page) => ("200 OK", page),
            Err(error) => ("503 Service Unavailable", format!("{error}\n")),
        },
        Some("GET /") => ("200 OK", "Metrics are at /metrics\n".to_owned()),
        Some(_) => ("404 Not Found", "Metrics are at /metrics\n".to_owned()),
        None => ("400 Bad Request", "This is no HTTP request\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    // A client that has gone needs no answer.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn page(env: &Env) -> Result<String> {
    let backend = Backend::open(&env.home, Need::Store).await?;
    let stats = read(&backend).await;
    backend.close().await?;
    Ok(prometheus::text(&stats?))
}

/// Method and path of a request; `None` if it is none.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1024]);
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await.ok()?;
        if read == 0 || bytes.len() + read > REQUEST_BYTES_MAX {
            return None;
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
    let text = std::str::from_utf8(&bytes).ok()?;
    let mut words = text.lines().next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    version
        .starts_with("HTTP/1.")
        .then(|| format!("{method} {}", target.split('?').next().unwrap_or_default()))
}

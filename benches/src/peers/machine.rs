//! The limits of the machine: its disk and its network stack.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

/// Appends small records to a file, each synced.
pub fn fdatasync(folder: &Path, count: u64) {
    let mut file = File::create(folder.join("log")).expect("a file");
    for _ in 0..count {
        file.write_all(&[7; 150]).expect("a write");
        file.sync_data().expect("a sync");
    }
}

/// Bytes a second through one TCP connection over loopback, in writes of 64 KiB.
pub fn loopback_bytes_a_second(bytes: usize) -> f64 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let block = vec![7; 64 * 1024];
            (0..bytes / block.len()).for_each(|_| stream.write_all(&block).expect("a write"));
        });
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut block = vec![0; 64 * 1024];
        while stream.read(&mut block).expect("a read") > 0 {}
    });
    bytes as f64 / start.elapsed().as_secs_f64()
}

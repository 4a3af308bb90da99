//! Ahenk as a library: a local-first database that keeps one person's devices in sync without a server.
//!
//! Each device writes into its own store, offline or not. Whenever two devices meet they exchange what the other
//! lacks and end in the same state. This crate joins the sans-IO [`engine`] with a store, a transport and a clock:
//! [`Node`] is the driver, [`Db`] the handle that an application uses.
//!
//! ```
//! use ahenk::{Db, Fields, MemoryNet, Node, Options, Scan, SystemClock};
//! use engine::identity::{DeviceCert, Identity, PeerKey, SecretKey};
//! use engine::store::MemStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // One account and two devices. (Real keys come from 32 random bytes each.)
//! let root = SecretKey::from_bytes(&[1; 32]);
//! let net = MemoryNet::new();
//! let mut devices: Vec<Db<MemStore>> = Vec::new();
//! for (n, name) in [(2, "laptop"), (3, "phone")] {
//!     let secret = SecretKey::from_bytes(&[n; 32]);
//!     let cert = DeviceCert::issue(&root, PeerKey(secret.public()), name, 0, false)?;
//!     let identity = Identity::new(secret, cert)?;
//!     let transport = net.join(identity.peer_key());
//!     let options = Options::new(identity, [n; 32]);
//!     let (node, db) = Node::new(options, transport, MemStore::new(), SystemClock::new())?;
//!     tokio::spawn(node.run());
//!     devices.push(db);
//! }
//! let (laptop, phone) = (&devices[0], &devices[1]);
//!
//! // Several rows, atomically: other devices see all of it or nothing.
//! let tea = Fields::from([("title", "Buy tea"), ("list", "shop")]);
//! laptop
//!     .transaction(|tx| {
//!         tx.put("tasks", "t1", tea.clone())?;
//!         tx.put("lists", "shop", Fields::from([("name", "Shopping")]))
//!     })
//!     .await?;
//!
//! // They meet.
//! net.connect_all();
//! phone.sync(std::time::Duration::from_secs(10)).await?;
//! let row = phone.get("tasks", "t1")?.expect("it arrived");
//! assert_eq!(row.get("title"), Some(&"Buy tea".into()));
//!
//! // Changes from a point on, as a stream that can be resumed later.
//! let mut watch = phone.watch(Default::default());
//! let change = watch.next().await?.expect("the database is open");
//! assert_eq!((change.table.as_str(), change.row.as_str()), ("lists", "shop"));
//!
//! assert_eq!(phone.scan("tasks", &Scan::prefix("t"))?.len(), 1);
//! for db in devices {
//!     db.close().await?;
//! }
//! # Ok(())
//! # }
//! ```

mod ahead;
mod clock;
mod db;
mod memory;
mod node;
mod outbox;
mod pace;
mod transaction;
mod verify;
mod watch;

pub use clock::SystemClock;
pub use db::{
    CloseError, Db, Fields, OrderFailed, ReadError, RestoreError, Row, Scan, SyncError, SyncReport,
    WriteFailed,
};
pub use engine;
pub use memory::{MemoryNet, MemoryTransport, Offline};
pub use node::{Node, NodeError, NodeStatus, Options, PeerPath};
pub use transaction::{Transaction, TransactionError};
pub use verify::{Comparison, DIFFERENCES_MAX, Difference, Verdict};
pub use watch::{Change, Cursor, Watch, WatchError};

//! Part of Ahenk; see `ARCHITECTURE.md`.

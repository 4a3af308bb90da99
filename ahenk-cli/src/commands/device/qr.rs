//! A pairing code as a QR code: in the terminal, or as a PNG file that lives as long as the offer.
//!
//! Invariant: the file is readable by its owner only, replaces nothing, and is gone when the offer has ended.

use std::fs::{self, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use qrcode::render::unicode::Dense1x2;
use qrcode::{Color, EcLevel, QrCode};

use crate::error::{CliError, Kind, Result};

/// Side of a module in the picture, in pixels.
const MODULE_PIXELS: usize = 8;
/// Light modules around the code; scanners ask for four.
const QUIET_MODULES: usize = 4;

fn code(text: &str) -> Result<QrCode> {
    QrCode::with_error_correction_level(text, EcLevel::L).map_err(|error| {
        CliError::usage(format!("the code does not fit a QR code: {error}"))
            .hint("give fewer addresses with --address, or use the code itself")
    })
}

/// The code in half blocks, light on dark as terminals mostly are.
pub(super) fn for_terminal(text: &str) -> Result<String> {
    let code = code(text)?;
    let mut renderer = code.render::<Dense1x2>();
    Ok(renderer.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// A picture of a code.
#[derive(Debug)]
pub(super) struct Picture(PathBuf);

impl Picture {
    /// Writes it to a new file.
    pub(super) fn write(text: &str, path: &Path) -> Result<Picture> {
        let code = code(text)?;
        let side = (code.width() + 2 * QUIET_MODULES) * MODULE_PIXELS;
        let module =
            |at: usize| (at / MODULE_PIXELS).checked_sub(QUIET_MODULES).filter(|at| *at < code.width());
        let dark = |x: usize, y: usize| match (module(x), module(y)) {
            (Some(x), Some(y)) => code[(x, y)] == Color::Dark,
            _ => false,
        };
        let pixels: Vec<u8> =
            (0..side * side).map(|at| if dark(at % side, at / side) { 0 } else { 255 }).collect();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                CliError::new(Kind::Conflict, format!("{} is there already", path.display()))
                    .hint("name a file that is not")
            }
            _ => CliError::io("write", path, &error),
        })?;
        let picture = Picture(path.to_owned());
        let side = u32::try_from(side).map_err(CliError::internal)?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), side, side);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
        written.map_err(|error| {
            CliError::new(Kind::Storage, format!("cannot write {}: {error}", path.display()))
                .hint("check that the disk has room")
        })?;
        Ok(picture)
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // The code in it is worthless by now; if the file stays, it only misleads.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_private_replaces_nothing_and_goes_with_its_offer() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("code.png");
        let picture = Picture::write("7-abandon-zoo@/ip4/192.0.2.7/tcp/4001", &path).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(fs::read(&path).expect("readable").starts_with(b"\x89PNG"));
        assert_eq!(Picture::write("x", &path).expect_err("taken").kind, Kind::Conflict);
        drop(picture);
        assert!(!path.exists());
    }

    #[test]
    fn a_code_of_the_longest_form_fits_a_terminal_of_80_columns() {
        let long = format!("7-abandon-zoo@{}", ["/ip4/192.168.100.100/udp/40001/quic-v1"; 4].join(","));
        let text = for_terminal(&long).expect("it fits");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

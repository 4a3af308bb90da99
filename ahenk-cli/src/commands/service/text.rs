//! The files by which managers of services know the daemon.

use std::path::{Path, PathBuf};

use super::{ServiceKind, shown};

/// By this, a file is known as ours.
pub(super) const MARK: &str = "Written by `ahenk-cli service install`";

/// A service for one home.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) program: PathBuf,
    pub(super) home: PathBuf,
    /// Whether that is this user's usual home folder.
    pub(super) usual: bool,
    pub(super) log: PathBuf,
}

impl Unit {
    /// `ahenk`, and for an unusual home what tells it from others.
    fn name(&self) -> String {
        if self.usual {
            return "ahenk".to_owned();
        }
        let hash = blake3::hash(shown(&self.home).as_bytes());
        format!("ahenk-{}", &hash.to_hex()[..8])
    }

    fn label(&self) -> String {
        format!("io.{}", self.name().replacen('-', ".", 1))
    }

    pub(super) fn file_name(&self, kind: ServiceKind) -> String {
        match kind {
            ServiceKind::Systemd => format!("{}.service", self.name()),
            ServiceKind::Launchd => format!("{}.plist", self.label()),
        }
    }

    pub(super) fn text(&self, kind: ServiceKind) -> String {
        match kind {
            ServiceKind::Systemd => self.systemd(),
            ServiceKind::Launchd => self.launchd(),
        }
    }

    fn systemd(&self) -> String {
        let (program, home) = (quoted(&self.program), quoted(&self.home));
        // Exit codes that another start would not change: see `ahenk-cli --help`.
        format!(
            "# {MARK}.\n\
             [Unit]\n\
             Description=Ahenk, syncing {}\n\
             \n\
             [Service]\n\
             ExecStart={program} --home {home} start --log-to-file\n\
             Restart=on-failure\n\
             RestartSec=5\n\
             RestartPreventExitStatus=2 3 5 6 9\n\
             TimeoutStopSec=20\n\
             UMask=0077\n\
             NoNewPrivileges=yes\n\
             \n\
             [Install]\n\
             WantedBy=default.target\n",
            shown(&self.home).replace('%', "%%")
        )
    }

    fn launchd(&self) -> String {
        let argument = |text: &str| format!("    <string>{}</string>\n", escaped(text));
        let (program, home) = (shown(&self.program), shown(&self.home));
        let arguments: String = [&program, "--home", &home, "start", "--log-to-file"].map(argument).concat();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <!-- {MARK}. -->\n\
             <plist version=\"1.0\">\n\
             <dict>\n\
             \x20 <key>Label</key>\n  <string>{}</string>\n\
             \x20 <key>ProgramArguments</key>\n  <array>\n{arguments}  </array>\n\
             \x20 <key>RunAtLoad</key>\n  <true/>\n\
             \x20 <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n\
             \x20 <key>ProcessType</key>\n  <string>Background</string>\n\
             \x20 <key>StandardErrorPath</key>\n  <string>{}</string>\n\
             </dict>\n\
             </plist>\n",
            self.label(),
            escaped(&shown(&self.log))
        )
    }

    /// Commands that make the manager know the service and start it.
    pub(super) fn start_commands(&self, kind: ServiceKind, path: &Path) -> Vec<String> {
        match kind {
            ServiceKind::Systemd => vec![
                "systemctl --user daemon-reload".to_owned(),
                format!("systemctl --user enable {}", self.file_name(kind)),
                format!("systemctl --user restart {}", self.file_name(kind)),
            ],
            ServiceKind::Launchd => vec![format!("launchctl bootstrap gui/$(id -u) '{}'", shown(path))],
        }
    }

    /// Commands that stop the service.
    pub(super) fn stop_commands(&self, kind: ServiceKind, path: &Path) -> Vec<String> {
        match kind {
            ServiceKind::Systemd => vec![format!("systemctl --user disable --now {}", self.file_name(kind))],
            ServiceKind::Launchd => vec![format!("launchctl bootout gui/$(id -u) '{}'", shown(path))],
        }
    }

    /// Commands for when the file is gone.
    pub(super) fn reload_commands(&self, kind: ServiceKind) -> Vec<String> {
        match kind {
            ServiceKind::Systemd => vec!["systemctl --user daemon-reload".to_owned()],
            ServiceKind::Launchd => Vec::new(),
        }
    }
}

/// A word of a command line in a unit: see systemd.service(5), "Command lines".
pub(crate) fn quoted(path: &Path) -> String {
    let text = shown(path).replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{text}\"")
}

/// Text in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(home: &str, usual: bool) -> Unit {
        let home = PathBuf::from(home);
        Unit { program: "/opt/my tools/ahenk-cli".into(), log: home.join("logs/ahenk.log"), home, usual }
    }

    #[test]
    fn the_unit_of_systemd_is_as_it_was_meant_to_be() {
        let unit = unit("/srv/ann/ahenk", true);
        assert_eq!(unit.file_name(ServiceKind::Systemd), "ahenk.service");
        let expected = "# Written by `ahenk-cli service install`.
[Unit]
Description=Ahenk, syncing /srv/ann/ahenk

[Service]
ExecStart=\"/opt/my tools/ahenk-cli\" --home \"/srv/ann/ahenk\" start --log-to-file
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2 3 5 6 9
TimeoutStopSec=20
UMask=0077
NoNewPrivileges=yes

[Install]
WantedBy=default.target
";
        assert_eq!(unit.text(ServiceKind::Systemd), expected);
    }

    #[test]
    fn what_is_special_to_a_manager_is_taken_as_it_is() {
        let odd = unit("/h/100% \"a\" $b \\c <&>", false);
        let text = odd.text(ServiceKind::Systemd);
        assert!(text.contains(r#"--home "/h/100%% \"a\" $$b \\c <&>" start"#), "{text}");
        let text = odd.text(ServiceKind::Launchd);
        assert!(text.contains("<string>/h/100% \"a\" $b \\c &lt;&amp;&gt;</string>"), "{text}");
        let opened = text.matches("<string>").count();
        assert_eq!((opened, text.matches("</string>").count()), (8, 8), "{text}");
    }

    #[test]
    fn each_home_has_a_service_of_its_own() {
        let names = ["/a", "/b"].map(|home| unit(home, false).file_name(ServiceKind::Systemd));
        assert!(names[0] != names[1] && names[0].starts_with("ahenk-"), "{names:?}");
        assert_eq!(unit("/a", true).file_name(ServiceKind::Launchd), "io.ahenk.plist");
        assert!(unit("/a", false).file_name(ServiceKind::Launchd).starts_with("io.ahenk."));
    }
}

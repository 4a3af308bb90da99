//! `corpus write DIR` writes the seeds, one folder for each target; `corpus run DIR` runs every target over what lies
//! in its folder there, without a fuzzer.

// Built with the flags of the targets, so that nothing is compiled twice; then what these refer to must be linked.
libfuzzer_sys::fuzz_target!(|data: &[u8]| assert!(data.len() < usize::MAX));

use std::path::Path;
use std::{env, fs, io, process};

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", dir] => write(Path::new(dir)),
        ["run", dir] => run(Path::new(dir)),
        _ => {
            eprintln!("usage: corpus write|run DIR");
            process::exit(2);
        }
    }
}

fn write(dir: &Path) -> io::Result<()> {
    for (target, name, bytes) in ahenk_fuzz::seeds::all() {
        let folder = dir.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

fn run(dir: &Path) -> io::Result<()> {
    for (target, check) in ahenk_fuzz::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(dir.join(target))? {
            let path = entry?.path();
            // If it panics, this line says what on.
            eprintln!("{}", path.display());
            check(&fs::read(&path)?);
            inputs += 1;
        }
        println!("{target}: {inputs} inputs");
    }
    Ok(())
}

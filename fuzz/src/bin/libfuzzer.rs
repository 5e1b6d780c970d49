//! One target under libFuzzer; scripts/fuzz.sh builds and calls it. `FUZZ_TARGET` names the target (`list` prints all
//! names), `FUZZ_EXAMPLES` the folder that its examples are put into first.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn choose() -> &'static Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let Some(target) = fuzz::target(&name) else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        // Asked for the list, or for what there is not.
        std::process::exit(i32::from(name != "list"));
    };
    if let Some(folder) = std::env::var_os("FUZZ_EXAMPLES") {
        for (number, example) in (target.examples)().iter().enumerate() {
            let path = Path::new(&folder).join(format!("example-{number}"));
            std::fs::write(&path, example).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    target
}

fuzz_target!(
    init: {
        CHOSEN.get_or_init(choose);
    },
    |bytes: &[u8]| (CHOSEN.get_or_init(choose).run)(bytes)
);

//! How a volume is to be used, in the drivers' words.

use proto::csi;
use proto::csi::node_service_capability::rpc::Type as Capability;
use proto::csi::volume_capability::access_mode::Mode;
use proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

use super::driver::Driver;

/// The use of a volume: as a device or with a file system, and by how many.
pub(super) fn capability(
    driver: &Driver,
    block: bool,
    fs_type: &str,
    flags: &[String],
    modes: &[String],
) -> csi::VolumeCapability {
    let mode = access_mode(modes.first().map(String::as_str), driver.can(Capability::SingleNodeMultiWriter));
    let access = if block {
        AccessType::Block(BlockVolume {})
    } else {
        AccessType::Mount(MountVolume {
            fs_type: fs_type.to_owned(),
            mount_flags: flags.to_vec(),
            volume_mount_group: String::new(),
        })
    };
    csi::VolumeCapability { access_mode: Some(AccessMode { mode: mode as i32 }), access_type: Some(access) }
}

/// The PV's first mode counts, as upstream has it. Drivers from before `ReadWriteOncePod` know one mode for one node.
fn access_mode(mode: Option<&str>, multi_writer: bool) -> Mode {
    match (mode.unwrap_or("ReadWriteOnce"), multi_writer) {
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        ("ReadWriteOnce" | "ReadWriteOncePod", false) => Mode::SingleNodeWriter,
        _ => Mode::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_drivers_know_them() {
        let check = |mode: Option<&str>, old: Mode, new: Mode| {
            assert_eq!((access_mode(mode, false), access_mode(mode, true)), (old, new), "{mode:?}");
        };
        check(None, Mode::SingleNodeWriter, Mode::SingleNodeMultiWriter);
        check(Some("ReadWriteOnce"), Mode::SingleNodeWriter, Mode::SingleNodeMultiWriter);
        check(Some("ReadWriteOncePod"), Mode::SingleNodeWriter, Mode::SingleNodeSingleWriter);
        check(Some("ReadOnlyMany"), Mode::MultiNodeReaderOnly, Mode::MultiNodeReaderOnly);
        check(Some("ReadWriteMany"), Mode::MultiNodeMultiWriter, Mode::MultiNodeMultiWriter);
    }
}

use super::inode::SECTOR;
use super::*;

fn disk_with_file() -> (SimDisk, Arc<dyn DiskFile>, PathBuf) {
    let disk = SimDisk::new(1);
    let dir = Path::new("/d");
    disk.create_dir_all(dir).unwrap();
    let path = dir.join("f");
    let file = disk.create(&path).unwrap();
    (disk, file, path)
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_only_that_for_certain() {
    let (disk, file, path) = disk_with_file();
    file.write_at(0, &[1; 2048]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(
        disk.power_cut(Survival::None).peek(&path),
        None,
        "no name yet"
    );
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(0, &[2; 2048]).unwrap();
    let left = |survival| disk.power_cut(survival).peek(&path).unwrap();
    assert_eq!(left(Survival::None), [1; 2048]);
    assert_eq!(left(Survival::All), [2; 2048]);
    let random: BTreeSet<_> = (0..32).map(|seed| left(Survival::Random(seed))).collect();
    assert!(random.len() > 4, "sectors survive one by one");
    assert_eq!(left(Survival::Random(7)), left(Survival::Random(7)));
    for bytes in random {
        for sector in bytes.chunks(SECTOR) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "never within one"
            );
        }
    }
}

#[test]
fn a_removed_name_comes_back_if_its_directory_was_not_synced() {
    let (disk, file, path) = disk_with_file();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.remove(&path).unwrap();
    assert!(disk.power_cut(Survival::None).peek(&path).is_some());
    disk.sync_dir(Path::new("/d")).unwrap();
    assert!(disk.power_cut(Survival::None).peek(&path).is_none());
}

#[test]
fn calls_fail_where_the_plan_says() {
    let (disk, file, _) = disk_with_file();
    disk.fail(Op::Write, 2, io::ErrorKind::StorageFull);
    file.write_at(0, b"a").unwrap();
    let error = file.write_at(1, b"b").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    file.write_at(1, b"c").unwrap();
    disk.crash_at(disk.ops() + 1, Moment::After);
    file.write_at(2, b"d").unwrap_err();
    assert!(disk.is_crashed());
    file.write_at(3, b"e").unwrap_err();
    let path = Path::new("/d/f");
    assert_eq!(disk.power_cut(Survival::None).peek(path), None);
    assert_eq!(disk.power_cut(Survival::All).peek(path).unwrap(), b"acd");
}

#[test]
fn a_recorded_call_shows_the_disk_as_it_left_it() {
    let (disk, file, path) = disk_with_file();
    disk.record();
    file.write_at(0, b"one").unwrap();
    file.sync_data().unwrap();
    file.write_at(0, b"two").unwrap();
    disk.rename(&path, Path::new("/d/g")).unwrap();
    let calls = disk.calls();
    let ops: Vec<_> = calls.iter().map(|call| call.op).collect();
    assert_eq!(ops, [Op::Write, Op::Sync, Op::Write, Op::Rename]);
    let seen = |call: usize| calls[call].after.peek(&path);
    assert_eq!(seen(1).unwrap(), b"one");
    assert_eq!(seen(2).unwrap(), b"two");
    assert_eq!(seen(3), None);
    assert!(calls.iter().all(|call| call.path == path));
}

#[test]
fn a_renamed_file_may_be_found_under_both_names_and_is_one_file_then() {
    let (disk, file, path) = disk_with_file();
    file.write_at(0, b"one").unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    let other = Path::new("/d/g");
    disk.rename(&path, other).unwrap();
    let mut found = BTreeSet::new();
    for seed in 0..32 {
        let cut = disk.power_cut(Survival::Random(seed));
        found.insert((cut.peek(&path).is_some(), cut.peek(other).is_some()));
        if cut.paths().len() == 2 {
            cut.poke(&path, 0, b"two").unwrap();
            assert_eq!(cut.peek(other).unwrap(), b"two");
        }
    }
    assert_eq!(found.len(), 4, "each name survives for itself: {found:?}");
}

#[test]
fn a_call_that_fails_late_has_taken_effect() {
    let (disk, file, path) = disk_with_file();
    disk.fail_late(Op::Write, 1, io::ErrorKind::Other);
    let error = file.write_at(0, b"one").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Other);
    assert_eq!(disk.peek(&path).unwrap(), b"one");
    assert_eq!(disk.failed(), [(Op::Write, path)]);
}

#[test]
fn nothing_is_written_under_a_view_through_any_handle_until_it_is_dropped() {
    let (disk, file, path) = disk_with_file();
    file.write_at(0, &[1; 2048]).unwrap();
    file.freeze(1024);
    let (short, view) = (file.view(0, 16).unwrap(), file.view(512, 256).unwrap());
    let moved = Path::new("/d/g");
    disk.rename(&path, moved).unwrap();
    let other = disk.open(moved, Access::ReadWrite).unwrap();
    let refused = other.write_at(767, b"x").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    other.write_at(768, b"behind").unwrap();
    let copy = disk.kill().open(moved, Access::ReadWrite).unwrap();
    copy.write_at(0, b"nobody looks at this one").unwrap();
    drop(view);
    assert!(other.write_at(0, b"x").is_err(), "the other is held");
    drop(short);
    other.write_at(0, b"x").unwrap();
}

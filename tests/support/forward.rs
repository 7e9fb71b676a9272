//! The calls of a disk that a test's disk passes on to the one in its field `disk`.

/// Writes the methods that are named, of `Disk`, each as the same call of `self.disk`.
#[macro_export]
macro_rules! forward {
    ($($call:ident)*) => { $( $crate::forward!(@ $call); )* };
    (@ create_dir_all) => { $crate::forward!(@@ create_dir_all(dir: &std::path::Path) -> ()); };
    (@ list) => { $crate::forward!(@@ list(dir: &std::path::Path) -> Vec<String>); };
    (@ rename) => {
        $crate::forward!(@@ rename(from: &std::path::Path, to: &std::path::Path) -> ());
    };
    (@ remove) => { $crate::forward!(@@ remove(path: &std::path::Path) -> ()); };
    (@ sync_dir) => { $crate::forward!(@@ sync_dir(dir: &std::path::Path) -> ()); };
    (@ lock) => {
        $crate::forward!(@@ lock(path: &std::path::Path) -> Box<dyn catamaran::vfs::LockGuard>);
    };
    (@ entropy) => { $crate::forward!(@@ entropy() -> u64); };
    (@@ $call:ident($($name:ident: $of:ty),*) -> $gives:ty) => {
        fn $call(&self $(, $name: $of)*) -> std::io::Result<$gives> {
            self.disk.$call($($name),*)
        }
    };
}

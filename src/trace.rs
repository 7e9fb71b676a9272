//! Structured events through `tracing` where that feature is on, and nothing where it is not.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{info, warn};

#[cfg(not(feature = "tracing"))]
macro_rules! silent {
    ($($event:tt)*) => {};
}
#[cfg(not(feature = "tracing"))]
pub(crate) use silent as info;
#[cfg(not(feature = "tracing"))]
pub(crate) use silent as warn;

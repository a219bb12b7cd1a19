//! What must hold, whatever happens: the oracles.

/// A promise was broken: what, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

pub type Checked<T = ()> = Result<T, Violation>;

macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => {
        if !$cond {
            return Err(crate::oracle::Violation(format!($($arg)*)));
        }
    };
}
pub(crate) use ensure;

//! The rows of the tables, as storages read and write them.

mod change;
mod looking;
mod run;
mod settings;
mod step;

pub use self::change::*;
pub use self::looking::*;
pub use self::run::*;
pub use self::settings::*;
pub use self::step::*;

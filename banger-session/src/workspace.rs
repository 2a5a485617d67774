//! A host's git repository carried into a guest, and its changes carried out.
//!
//! Everything that is said to the guest's shell and understood of git's
//! answers, on both sides. Whoever uses it runs git and owns the streams.
//!
//! ```text
//!  host                                   guest
//!  inspect (status, ls-files)             preflight: git? tar? what is there? changed since?
//!  stage:  a repository made for this     receive: beside, in `.banger-prepare-<id>`
//!          one, and the files that        check out, delete, lay over, remember as
//!          differ from HEAD, two tars     `refs/banger/base`, and rename: the one step
//!                                         that is seen
//!  check the patch, merge, apply   ◀───   export: a temporary index and object folder,
//!                                         `add -A`, diff against the base
//! ```
//!
//! What comes from a guest is hostile: paths are checked by
//! [`check_path`](patch::check_path) whatever git has made of them.

mod config;
mod guest_path;
mod index;
mod inspect;
mod origin;
pub mod patch;
mod preflight;
mod refusal;
mod scripts;
mod status;
mod within;

pub use config::{Section, config_text, parse_config, parse_submodules, quoted_path};
pub use guest_path::{DEFAULT_GUEST_PATH, GuestPath, InvalidGuestPath};
pub use index::{BadIndex, IndexFacts, check_index};
pub use inspect::{Head, InspectRefusal, Mode, RepositoryFacts, decide_inspect};
pub use origin::without_credentials;
pub use preflight::{
    Destination, ParsePreflightError, Preflight, Replace, decide_replace, parse_preflight,
};
pub use refusal::WorkspaceRefusal;
pub use scripts::{
    Checkout, Receive, TakeOut, changes_script, export_script, preflight_script, receive_script,
    take_out_script, trailer,
};
pub use status::{MalformedOutput, Status, parse_status};
pub use within::{Heading, TakenOut};

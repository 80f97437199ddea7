//! The commands, one file each.

pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod failed;
pub(crate) mod history;
pub(crate) mod kill_switch;
pub(crate) mod man;
pub(crate) mod opt_out;
pub(crate) mod opt_outs;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod re_arm;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod sweep;
pub(crate) mod undo;

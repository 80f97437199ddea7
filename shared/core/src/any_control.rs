//! A control without its types: records hold states as JSON, and messages read
//! records of every control.
//!
//! Every [`Control`] is one. A state that is not of the control's type, because
//! another release wrote it, gives `None`: a message leaves out what depends on
//! it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::control::{ByHand, Control};
use crate::info::ControlInfo;
use crate::plan::{Exposure, Step};
use crate::ports::Permission;
use crate::trigger::{BrokenEvent, Parsed};

/// A control's answers about states in JSON.
pub trait AnyControl: Send + Sync {
    /// What is fixed about it.
    fn info(&self) -> &'static ControlInfo;

    /// [`Control::parse`].
    ///
    /// # Errors
    /// An event that ought to name a resource and does not.
    fn parse(&self, payload: &Value) -> Result<Parsed, BrokenEvent>;

    /// [`Control::calls`].
    fn calls(&self) -> Vec<&'static str>;

    /// The step that changes an item in place.
    fn in_place(&self) -> Step;

    /// [`Control::SHOWN_WITHIN`].
    fn shown_within(&self) -> Duration;

    /// [`Control::name`].
    fn name(&self, item: &str) -> String;

    /// [`Control::line`].
    fn line(&self, item: &str, state: &Value) -> Option<String>;

    /// [`Control::permission`].
    fn permission(&self, state: &Value) -> Option<Permission>;

    /// [`Control::exposure_line`].
    fn exposure_line(&self, exposure: &Exposure) -> Option<String>;

    /// [`Control::found`].
    fn found(&self, exposure: &Exposure) -> Option<String>;

    /// [`Control::headline`] in several lengths.
    fn headlines(&self, exposures: &[&Exposure], lengths: &[usize]) -> Option<Vec<String>>;

    /// [`Control::details`].
    fn details(&self, exposure: &Exposure) -> Option<Vec<String>>;

    /// [`Control::side_effects`] of those whose state can be read.
    fn side_effects(&self, exposures: &[&Exposure]) -> Vec<String>;

    /// [`Control::allowed_by_policy`] of those whose state can be read.
    fn allowed_by_policy(&self, exposures: &[&Exposure]) -> Vec<String>;

    /// [`Control::commands`].
    fn commands(&self, back: ByHand<'_>) -> Option<Vec<String>>;
}

impl<C: Control> AnyControl for C {
    fn info(&self) -> &'static ControlInfo {
        const { &C::INFO }
    }

    fn parse(&self, payload: &Value) -> Result<Parsed, BrokenEvent> {
        C::parse(payload)
    }

    fn calls(&self) -> Vec<&'static str> {
        C::calls()
    }

    fn in_place(&self) -> Step {
        C::IN_PLACE.0
    }

    fn shown_within(&self) -> Duration {
        C::SHOWN_WITHIN
    }

    fn name(&self, item: &str) -> String {
        C::name(item)
    }

    fn line(&self, item: &str, state: &Value) -> Option<String> {
        Some(C::line(item, &typed::<C>(state)?))
    }

    fn permission(&self, state: &Value) -> Option<Permission> {
        C::permission(&typed::<C>(state)?)
    }

    fn exposure_line(&self, exposure: &Exposure) -> Option<String> {
        Some(C::exposure_line(&of_type::<C>(exposure)?))
    }

    fn found(&self, exposure: &Exposure) -> Option<String> {
        Some(C::found(&of_type::<C>(exposure)?))
    }

    fn headlines(&self, exposures: &[&Exposure], lengths: &[usize]) -> Option<Vec<String>> {
        let readable = all_of_type::<C>(exposures);
        if readable.is_empty() && !exposures.is_empty() {
            return None;
        }
        let lengths = lengths.iter();
        Some(lengths.map(|most| C::headline(&readable, *most)).collect())
    }

    fn details(&self, exposure: &Exposure) -> Option<Vec<String>> {
        Some(C::details(&of_type::<C>(exposure)?))
    }

    fn side_effects(&self, exposures: &[&Exposure]) -> Vec<String> {
        C::side_effects(&all_of_type::<C>(exposures))
    }

    fn allowed_by_policy(&self, exposures: &[&Exposure]) -> Vec<String> {
        C::allowed_by_policy(&all_of_type::<C>(exposures))
    }

    fn commands(&self, back: ByHand<'_>) -> Option<Vec<String>> {
        let form = |state: &Option<Value>| match state {
            Some(state) => typed::<C>(state).map(Some),
            None => Some(None),
        };
        let (left, to) = (form(&back.left)?, form(&back.to)?);
        Some(C::commands(&back.with(left, to)))
    }
}

fn typed<C: Control>(state: &Value) -> Option<C::State> {
    C::State::deserialize(state).ok()
}

fn of_type<C: Control>(exposure: &Exposure) -> Option<Exposure<C::State>> {
    Some(exposure.with_state(typed::<C>(&exposure.state)?))
}

fn all_of_type<C: Control>(exposures: &[&Exposure]) -> Vec<Exposure<C::State>> {
    let exposures = exposures.iter();
    exposures.filter_map(|e| of_type::<C>(e)).collect()
}

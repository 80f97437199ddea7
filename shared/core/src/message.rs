//! Message texts.
#[derive(Clone,Debug)]
/// Message.
pub struct Message{
/// s
pub subject:String,
/// b
pub body:String,
/// a
pub attributes:std::collections::BTreeMap<String,String>}

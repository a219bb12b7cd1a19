//! Messages of consensus that a script has get lost, or keeps and delivers when it likes.

use bytes::Bytes;
use quorate_consensus::Message;

use super::Script;
use crate::oracle::Checked;
use crate::world::World;
use crate::world::member::Input;
use quorate_member::core::LogInput;

/// A message from one machine to another.
pub struct Caught {
    pub from: usize,
    pub to: usize,
    pub message: Message,
    frame: Bytes,
}

type Wanted = Box<dyn Fn(usize, usize, &Message) -> bool>;

/// What is done with messages that are sent.
pub struct Intercept {
    wanted: Wanted,
    /// What is kept does not arrive.
    loses: bool,
    caught: Vec<Caught>,
}

impl World {
    /// A message is sent; true where it goes no further.
    pub(in crate::world) fn is_intercepted(
        &mut self,
        from: usize,
        to: usize,
        message: &Bytes,
        frame: &Bytes,
    ) -> bool {
        let Some(intercept) = &mut self.intercept else { return false };
        let Ok(message) = Message::decode(message) else { return false };
        if !(intercept.wanted)(from, to, &message) {
            return false;
        }
        let loses = intercept.loses;
        intercept.caught.push(Caught { from, to, message, frame: frame.clone() });
        loses
    }
}

impl Script {
    /// From now on these messages (sender, receiver) do not arrive; they are kept.
    pub fn catch(&mut self, wanted: impl Fn(usize, usize, &Message) -> bool + 'static) {
        self.world.intercept = Some(Intercept { wanted: Box::new(wanted), loses: true, caught: Vec::new() });
    }

    /// These messages arrive, and are kept as well.
    pub fn copy(&mut self, wanted: impl Fn(usize, usize, &Message) -> bool + 'static) {
        self.world.intercept = Some(Intercept { wanted: Box::new(wanted), loses: false, caught: Vec::new() });
    }

    /// What was kept so far.
    #[must_use]
    pub fn caught(&self) -> &[Caught] {
        self.world.intercept.as_ref().map_or(&[], |intercept| &intercept.caught)
    }

    /// All messages arrive again; what was kept is the script's.
    pub fn release(&mut self) -> Vec<Caught> {
        self.world.intercept.take().map_or_else(Vec::new, |intercept| intercept.caught)
    }

    /// A kept message arrives now, however old it is.
    pub fn deliver(&mut self, caught: &Caught) -> Checked {
        self.say(|| format!("m{} gets {:?}", caught.to, caught.message));
        let from = self.world.id_of(caught.from);
        self.world.push(caught.to, Input::Log(LogInput::Frame { from, frame: caught.frame.clone() }))
    }
}

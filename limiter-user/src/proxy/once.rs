//! A signed message on its way upstream, where it may go once.
//!
//! Admission claims it, the upstream's first attempt uses it up, and what was never sent is given
//! back: an honest sender may send the same message again.

use std::rc::Rc;

use super::reply::Reply;
use crate::credentials::replay::Claims;

/// The claims of one request; none, if nothing of it is for once only.
#[derive(Clone, Debug, Default)]
pub(super) struct Once(Option<Rc<Claims>>);

impl Once {
    /// These too, before anybody else has a part in them.
    pub(super) fn add(&mut self, claims: Claims) {
        if claims.is_empty() {
            return;
        }
        let mine = self.0.get_or_insert_default();
        if let Some(mine) = Rc::get_mut(mine) {
            mine.append(claims);
        }
    }

    /// Now something of the request may reach a server: it is used up. Refuses one that waited for
    /// so long that its message counts no more.
    pub(super) fn hand_over(&self) -> Result<(), Reply> {
        if self.0.as_ref().is_none_or(|claims| claims.spend()) {
            return Ok(());
        }
        Err(Reply::overloaded())
    }

    /// Nothing of it ever reached one.
    pub(super) fn unsent(&self) {
        if let Some(claims) = &self.0 {
            claims.unspend();
        }
    }

    /// The request is not sent any more. Whether it could have been, and never was.
    pub(super) fn give_back(&self) -> bool {
        self.0.as_ref().is_some_and(|claims| claims.give_back())
    }
}

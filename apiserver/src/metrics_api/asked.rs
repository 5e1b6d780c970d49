//! Who waits for readings, and whether somebody takes them. Pure but for the channel that wakes those who wait.
//!
//! Whoever asks waits; who takes the readings is a task of its own, since a question can be given up at any moment. A
//! task that ends without a word is replaced by the next question.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The questions of late.
#[derive(Default)]
pub struct Asked {
    last: Option<Instant>,
    /// True once there are readings to answer from; closed when nobody takes them any more.
    taken: Option<watch::Receiver<bool>>,
}

impl Asked {
    /// Notes a question: what tells when there is an answer, and for the first who asks the end by which to tell it.
    pub fn ask(&mut self) -> (watch::Receiver<bool>, Option<watch::Sender<bool>>) {
        self.last = Some(Instant::now());
        if let Some(taken) = self.taken.as_ref().filter(|taken| taken.has_changed().is_ok()) {
            return (taken.clone(), None);
        }
        let (sender, receiver) = watch::channel(false);
        self.taken = Some(receiver.clone());
        (receiver, Some(sender))
    }

    /// Whether nobody has asked for so long.
    pub fn is_idle(&self, after: Duration) -> bool {
        self.last.is_none_or(|at| at.elapsed() > after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_takes_the_readings_for_all_and_is_replaced_when_lost() {
        let mut asked = Asked::default();
        assert!(asked.is_idle(Duration::ZERO));
        let (mut first, sender) = asked.ask();
        let sender = sender.expect("the first one starts");
        let (second, none) = asked.ask();
        assert!(none.is_none() && !asked.is_idle(Duration::from_secs(3600)));
        // The first question is given up; the second is answered nevertheless.
        sender.send_replace(true);
        assert!(first.wait_for(|taken| *taken).await.is_ok());
        drop(first);
        assert!(*second.borrow() && asked.ask().1.is_none());
        // The task is lost.
        drop(sender);
        let (mut third, sender) = asked.ask();
        assert!(sender.is_some() && !*third.borrow(), "somebody starts again");
        drop(sender);
        assert!(third.wait_for(|taken| *taken).await.is_err(), "and nobody waits for ever");
    }
}

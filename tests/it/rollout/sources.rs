//! Tasks that are made one by one, and rollouts that are broken off.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use thyme_engine::rollout::environment::{EnvironmentError, Tasks};
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::trajectory::End;
use thyme_engine::rollout::{Update, run_watched};

use super::{environment, one_thread, processor, scripted, task};

/// Thirty questions, and how many of them were made so far.
#[derive(Default)]
struct Questions {
    made: AtomicUsize,
}

impl Tasks for Questions {
    fn count(&self) -> usize {
        30
    }

    fn task(&self, number: usize) -> Result<Cow<'_, Task>, EnvironmentError> {
        self.made.fetch_add(1, Ordering::SeqCst);
        match number {
            7 => Err(EnvironmentError::Task("it is damaged".to_owned())),
            _ => Ok(Cow::Owned(task("q"))),
        }
    }
}

#[test]
fn tasks_are_made_when_their_turn_comes() {
    let (questions, mut ends) = (Questions::default(), Vec::new());
    let mut generator = scripted(&["<answer>7</answer>"; 30]).with_room(2);
    let mut watch = |update: Update<'_>| {
        if let Update::Finished(trajectory) = update {
            ends.push((trajectory.task, trajectory.end));
            // Two are open, and three wait for one thread.
            assert!(questions.made.load(Ordering::SeqCst) <= ends.len() + 2 + 3);
        }
        ControlFlow::Continue(())
    };
    run_watched(&mut generator, processor(), &environment(Default::default()), &questions, &one_thread(), &mut watch)
        .unwrap();
    ends.sort_by_key(|(task, _)| *task);
    let expected = |task| if task == 7 { End::TaskFailed("it is damaged".to_owned()) } else { End::Answered };
    assert_eq!(ends, (0..30).map(|task| (task, expected(task))).collect::<Vec<_>>());
}

#[test]
fn a_watcher_may_break_off() {
    let (questions, mut finished) = (Questions::default(), 0);
    let mut generator = scripted(&["<answer>7</answer>"; 30]).with_room(2);
    let mut watch = |update: Update<'_>| {
        finished += usize::from(matches!(update, Update::Finished(_)));
        if finished >= 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    run_watched(&mut generator, processor(), &environment(Default::default()), &questions, &one_thread(), &mut watch)
        .unwrap();
    assert!(finished == 4 && questions.made.load(Ordering::SeqCst) < 12);
    assert_eq!(generator.open_sequences(), 0, "the generator is left as it was found");
}

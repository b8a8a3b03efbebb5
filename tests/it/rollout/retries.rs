//! Tasks that end without an answer are rolled out again, and at last asked for the answer alone.

use std::sync::Arc;

use thyme_engine::prompt::PreparedImage;
use thyme_engine::rollout::generator::{GenerateRequest, Generator, GeneratorError, Scripted, TokenEvent};
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::retry::{Retried, RetrySettings, retry};
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::{RolloutSettings, run};

use super::{processor, scripted};

/// A script for each attempt: one begins where sequence 0 is opened.
struct Attempts {
    scripts: Vec<Scripted>,
    opened: usize,
}

impl Attempts {
    fn now(&mut self) -> &mut Scripted {
        &mut self.scripts[self.opened - 1]
    }
}

impl Generator for Attempts {
    fn open(&mut self, request: GenerateRequest) -> Result<(), GeneratorError> {
        self.opened += usize::from(request.sequences == [0]);
        self.now().open(request)
    }

    fn step(&mut self) -> Result<Vec<TokenEvent>, GeneratorError> {
        self.now().step()
    }

    fn append(&mut self, sequence: u64, ids: &[u32], images: &[Arc<PreparedImage>]) -> Result<(), GeneratorError> {
        self.now().append(sequence, ids, images)
    }

    fn close(&mut self, sequence: u64) {
        self.now().close(sequence);
    }
}

/// Answers of three tasks at first, then of those that are tried again, in the order in which they are.
fn play(first: [&str; 3], again: &[&[&str]], settings: RetrySettings) -> (Vec<Option<String>>, Retried) {
    let environment = Registry::default().environment(("direct".to_owned(), toml::Table::new()), &[]).unwrap();
    let tasks: Vec<Task> = (0..3).map(|n| Task { question: format!("{n}?"), ..Task::default() }).collect();
    let rollout = RolloutSettings::default();
    let mut groups = run(&mut scripted(&first), processor(), &*environment, &tasks, &rollout).unwrap();
    // A script is found by its sequence's number, which each attempt begins anew.
    let mut generator = Attempts { scripts: again.iter().map(|scripts| scripted(scripts)).collect(), opened: 0 };
    let retried = retry(&mut generator, processor(), &*environment, &tasks, &mut groups, &settings).unwrap();
    let answer = |group: &thyme_engine::rollout::Group| {
        let trajectory = &group.trajectories[0];
        assert_eq!((group.task, trajectory.task), (trajectory.task, group.task));
        trajectory.answer.as_ref().map(|answer| trajectory.own_text()[answer.inside.clone()].to_owned())
    };
    (groups.iter().map(answer).collect(), retried)
}

#[test]
fn what_has_no_answer_is_tried_again_and_at_last_asked_directly() {
    let [none, yes] = ["I do not know", "<answer>7</answer>"];
    let answers =
        |found: (Vec<Option<String>>, Retried)| (found.0.iter().map(Option::is_some).collect::<Vec<_>>(), found.1);
    let settings = |retries, direct_fallback| RetrySettings { retries, direct_fallback };
    let retried = |rollouts, asked_directly| Retried { rollouts, asked_directly };
    for (first, again, settings, expected) in [
        ([yes, none, none], &[][..], settings(0, false), (vec![true, false, false], retried(0, 0))),
        ([yes, none, none], &[&[none, yes][..], &[yes]][..], settings(2, false), (vec![true; 3], retried(3, 0))),
        ([none, yes, yes], &[&[none][..], &[none]][..], settings(2, false), (vec![false, true, true], retried(2, 0))),
        ([none, yes, none], &[&[yes, none][..], &[yes]][..], settings(1, true), (vec![true; 3], retried(2, 1))),
    ] {
        assert_eq!(answers(play(first, again, settings)), expected);
    }
}

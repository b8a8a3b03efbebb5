//! Advantages, losses and divergences against verl's own functions on random numbers: `tools/golden/policy_losses.py` made `tests/golden/grpo/verl.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{from_value, json};
use thyme_engine::recipe::{AdvantageEstimator, GrpoSettings, KlEstimator, LossType};
use thyme_engine::train::advantage::{Outcome, advantages};
use thyme_engine::train::loss::{Divisor, LossToken, kl, sequence_losses, token_weights};

/// Of numbers that were computed in float64; verl adds 1e-8 to counts of tokens.
const TOLERANCE: f64 = 1e-8;

#[derive(Deserialize)]
struct Golden {
    members: usize,
    width: usize,
    epsilon: f64,
    epsilon_high: f64,
    delta: f64,
    sapo_temperature_pos: f64,
    sapo_temperature_neg: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    rewards: Vec<f64>,
    lengths: Vec<usize>,
    new: Vec<Vec<f32>>,
    old: Vec<Vec<f32>>,
    reference: Vec<Vec<f32>>,
    advantages: Vec<f64>,
    of_advantages: BTreeMap<String, Vec<f64>>,
    of_losses: BTreeMap<String, GoldenLoss>,
    of_divergences: BTreeMap<String, Vec<Vec<f64>>>,
}

#[derive(Deserialize)]
struct GoldenLoss {
    loss: f64,
    derivatives: Vec<Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/grpo/verl.json")).unwrap()
}

#[track_caller]
fn assert_near(found: &[f64], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (place, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= TOLERANCE, "{what} [{place}]: {found}, not {wanted}");
    }
}

#[test]
fn every_estimator_has_the_advantages_of_verl() {
    let golden = golden();
    for (number, case) in golden.cases.iter().enumerate() {
        let outcome =
            |(&reward, &tokens): (&f64, &usize)| Outcome { reward: Some(reward), tokens, ..Outcome::default() };
        let outcomes: Vec<Outcome> = case.rewards.iter().zip(&case.lengths).map(outcome).collect();
        let groups: Vec<Vec<Outcome>> = outcomes.chunks(golden.members).map(<[Outcome]>::to_vec).collect();
        assert_eq!(case.of_advantages.len(), 4);
        for (name, wanted) in &case.of_advantages {
            let advantage: AdvantageEstimator = from_value(json!(name)).unwrap();
            let settings = GrpoSettings { advantage, ..GrpoSettings::default() };
            let found: Vec<f64> = advantages(&groups, &settings).into_iter().flatten().map(Option::unwrap).collect();
            assert_near(&found, wanted, &format!("{name} of case {number}"));
        }
    }
}

#[test]
fn every_loss_and_its_derivatives_are_those_of_verl() {
    let golden = golden();
    for (number, case) in golden.cases.iter().enumerate() {
        assert_eq!(case.of_losses.len(), 6);
        for (name, wanted) in &case.of_losses {
            let is_dual = name == "dual_clip";
            let loss_type: LossType = from_value(json!(if is_dual { "grpo" } else { name })).unwrap();
            let settings = GrpoSettings {
                loss_type,
                epsilon: golden.epsilon,
                epsilon_high: Some(golden.epsilon_high),
                delta: is_dual.then_some(golden.delta),
                sapo_temperature_pos: golden.sapo_temperature_pos,
                sapo_temperature_neg: golden.sapo_temperature_neg,
                ..GrpoSettings::default()
            };
            let divisor = Divisor { sequences: case.lengths.len(), tokens: case.lengths.iter().sum() };
            let weights = token_weights(loss_type, &case.lengths, divisor, golden.width);
            let mut loss = 0.0;
            for (row, weight) in weights.iter().enumerate() {
                let token = |(&new, &old): (&f32, &f32)| LossToken {
                    new,
                    old,
                    reference: None,
                    advantage: Some(case.advantages[row]),
                };
                let tokens: Vec<LossToken> = case.new[row].iter().zip(&case.old[row]).map(token).collect();
                let losses = sequence_losses(&settings, &tokens);
                loss += losses.iter().map(|token| weight * token.loss).sum::<f64>();
                let derivatives: Vec<f64> = losses.iter().map(|token| weight * token.dlogprob).collect();
                assert_near(&derivatives, &wanted.derivatives[row], &format!("{name} of case {number}, row {row}"));
            }
            assert_near(&[loss], &[wanted.loss], &format!("{name} of case {number}"));
        }
    }
}

#[test]
fn every_divergence_is_that_of_verl() {
    for (number, case) in golden().cases.iter().enumerate() {
        assert_eq!(case.of_divergences.len(), 3);
        for (name, wanted) in &case.of_divergences {
            let estimator: KlEstimator = from_value(json!(name)).unwrap();
            for (row, wanted) in wanted.iter().enumerate() {
                let pairs = case.new[row].iter().zip(&case.reference[row]);
                let found: Vec<f64> = pairs.map(|(&new, &reference)| kl(estimator, new, reference).0).collect();
                assert_near(&found, wanted, &format!("{name} of case {number}, row {row}"));
            }
        }
    }
}

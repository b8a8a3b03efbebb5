//! Between policy, tools and rewards images go by reference: what a tool gives is the buffer that the next call, the trajectory and the rewards
//! see, and a group shares the task's picture.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::View;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::trajectory::{End, Trajectory};
use thyme_engine::rollout::{RolloutSettings, run};

use super::{processor, scripted};

/// Two sequences that crop a part, all of that part, and a part of it again.
fn rolled_out(picture: &Arc<RgbImage>) -> Vec<Trajectory> {
    let crop = |width: u32, height: u32| {
        format!(
            "<tool>{{\"name\": \"crop_image\", \"args\": {{\"x\": 0, \"y\": 0, \"width\": {width}, \"height\": {height}}}}}</tool>"
        )
    };
    let script = format!("{}{}{}<answer>7</answer>", crop(70, 50), crop(70, 50), crop(60, 40));
    let environment =
        Registry::default().environment(("vision_tools".to_owned(), toml::Table::new()), &[]).expect("an environment");
    let images = vec![ImageSource::Memory(picture.clone())];
    let task = Task { prompt: TaskPrompt::Question, question: "What is it?".into(), images, ..Task::default() };
    let settings = RolloutSettings { group_size: 2, ..RolloutSettings::default() };
    let mut generator = scripted(&[&script, &script]);
    let groups = run(&mut generator, processor(), &*environment, &[task], &settings).unwrap();
    groups.into_iter().next().unwrap().trajectories
}

#[test]
fn an_image_has_one_buffer_from_the_tool_to_the_next_call_the_trajectory_and_the_rewards() {
    let picture = Arc::new(RgbImage::from_fn(84, 56, |x, y| Rgb([x as u8 * 3, y as u8 * 4, 90])));
    let trajectories = rolled_out(&picture);
    assert_eq!(trajectories.len(), 2);
    for trajectory in &trajectories {
        assert_eq!(trajectory.end, End::Answered);
        let solution = Default::default();
        let seen_by_rewards = View::new(trajectory, "What is it?", &solution).images;
        let image = |index: usize| seen_by_rewards.get(index).unwrap();
        assert_eq!(seen_by_rewards.len(), 4);
        assert!(Arc::ptr_eq(&image(0), &picture), "the task's picture is that of the task");
        for (number, call) in trajectory.calls.iter().enumerate() {
            let made = &call.output.images[0].pixels;
            assert!(Arc::ptr_eq(made, &image(number + 1)), "the rewards see what call {number} made");
        }
        // The second call crops all of what the first one made, and a crop of all is what the tool was given.
        assert!(Arc::ptr_eq(&image(1), &image(2)), "the tool is given the trajectory's own buffer");
        assert!(!Arc::ptr_eq(&image(2), &image(3)));
        // The images' own list holds it twice, and so do the outputs of both calls; here it is held once more.
        assert_eq!(Arc::strong_count(&image(1)), 5, "nothing else holds it, or a copy");
    }
    let [first, second] = trajectories.as_slice() else { panic!("a group of two") };
    let task_picture = |trajectory: &Trajectory| trajectory.original_images.get(0).unwrap();
    assert!(Arc::ptr_eq(&task_picture(first), &task_picture(second)), "a group has one decoded picture");
}

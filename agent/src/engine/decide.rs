//! Which container to start or stop next: the rules of `dependsOn`, `links` and `essential`, without
//! anything around them.
//!
//! Sources: the ECS agent's dependency graph (START, COMPLETE and SUCCESS; a container stops only
//! after all that depend on it), and the ECS developer guide on essential containers.

use crate::supervisor::protocol::State;
use crate::task_definition::{Condition, ContainerDefinition};

/// What the rules need to know of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// As the supervisor tells it.
    pub state: State,
    /// Whether it has been asked to start.
    pub asked_to_start: bool,
    /// Whether it has been asked to stop.
    pub asked_to_stop: bool,
    /// Whether it will never start, because of the dependency of that name.
    pub given_up: Option<String>,
}

/// A container that nothing has happened to.
impl Default for View {
    fn default() -> Self {
        Self {
            state: State::Pending,
            asked_to_start: false,
            asked_to_stop: false,
            given_up: None,
        }
    }
}

impl View {
    fn has_ended(&self) -> bool {
        matches!(self.state, State::Exited { .. } | State::Failed { .. }) || self.given_up.is_some()
    }

    /// Whether no process of it runs or is about to.
    pub fn is_over(&self, stopping: bool) -> bool {
        self.has_ended() || (stopping && self.state == State::Pending && !self.asked_to_start)
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the container of that index.
    Start(usize),
    /// Stop the container of that index.
    Stop(usize),
    /// The container of that index can never start, because of the dependency of that name.
    GiveUp(usize, String),
    /// The task must stop, because the essential container of that index is over.
    StopTask(usize),
}

/// The next things to do. `containers` and `views` go together.
pub fn next(containers: &[ContainerDefinition], views: &[View], stopping: bool) -> Vec<Action> {
    let all = || containers.iter().zip(views).enumerate();
    if stopping {
        let running =
            |view: &View| matches!(view.state, State::Running { .. }) && !view.asked_to_stop;
        return all()
            .filter(|(_, (_, view))| running(view))
            .filter(|(_, (container, _))| !has_live_dependant(&container.name, containers, views))
            .map(|(i, _)| Action::Stop(i))
            .collect();
    }
    if let Some((i, _)) =
        all().find(|(_, (container, view))| container.essential && view.has_ended())
    {
        return vec![Action::StopTask(i)];
    }
    all()
        .filter(|(_, (_, view))| {
            view.state == State::Pending && !view.asked_to_start && view.given_up.is_none()
        })
        .filter_map(
            |(i, (container, _))| match readiness(container, containers, views) {
                Readiness::Ready => Some(Action::Start(i)),
                Readiness::Waiting => None,
                Readiness::Never(name) => Some(Action::GiveUp(i, name)),
            },
        )
        .collect()
}

enum Readiness {
    Ready,
    Waiting,
    Never(String),
}

fn readiness(
    container: &ContainerDefinition,
    containers: &[ContainerDefinition],
    views: &[View],
) -> Readiness {
    let mut ready = true;
    for (name, condition) in container.start_conditions() {
        let other = containers.iter().zip(views).find(|(c, _)| c.name == name);
        let Some((_, view)) = other else { continue };
        let exit = match &view.state {
            State::Exited { code, .. } => Some(*code),
            _ => None,
        };
        let never_ran = matches!(view.state, State::Failed { .. }) || view.given_up.is_some();
        let failed = condition == Condition::Success && exit.is_some_and(|code| code != 0);
        if never_ran || failed {
            return Readiness::Never(name.to_owned());
        }
        ready &= match condition {
            Condition::Start => view.state != State::Pending,
            Condition::Complete | Condition::Success => exit.is_some(),
        };
    }
    if ready {
        Readiness::Ready
    } else {
        Readiness::Waiting
    }
}

fn has_live_dependant(name: &str, containers: &[ContainerDefinition], views: &[View]) -> bool {
    containers.iter().zip(views).any(|(other, view)| {
        !view.is_over(true) && other.start_conditions().any(|(needed, _)| needed == name)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::task_definition::TaskDefinition;

    /// `web` (essential) after `migrate` succeeded and `cache` started; `cache` is no essential.
    fn containers() -> Vec<ContainerDefinition> {
        TaskDefinition::from_request(json!({
            "family": "f", "networkMode": "awsvpc", "memory": "512",
            "containerDefinitions": [
                {"name": "web", "image": "i", "dependsOn": [
                    {"containerName": "migrate", "condition": "SUCCESS"},
                    {"containerName": "cache", "condition": "START"}]},
                {"name": "migrate", "image": "i", "essential": false, "dependsOn": [
                    {"containerName": "cache", "condition": "START"}]},
                {"name": "cache", "image": "i", "essential": false},
            ]
        }))
        .unwrap()
        .container_definitions
    }

    fn views() -> Vec<View> {
        vec![View::default(), View::default(), View::default()]
    }

    const RUNNING: State = State::Running { pid: 7 };

    fn exited(code: i32) -> State {
        State::Exited {
            code,
            out_of_memory: false,
        }
    }

    #[test]
    fn containers_start_when_what_they_depend_on_is_there() {
        let (containers, mut views) = (containers(), views());
        assert_eq!(next(&containers, &views, false), [Action::Start(2)]);
        views[2].asked_to_start = true;
        assert_eq!(next(&containers, &views, false), []);
        views[2].state = RUNNING;
        assert_eq!(next(&containers, &views, false), [Action::Start(1)]);
        views[1] = View {
            state: RUNNING,
            asked_to_start: true,
            ..View::default()
        };
        assert_eq!(next(&containers, &views, false), []);
        views[1].state = exited(0);
        assert_eq!(next(&containers, &views, false), [Action::Start(0)]);
    }

    #[test]
    fn a_failed_dependency_gives_its_dependant_up_and_that_ends_the_task() {
        let (containers, mut views) = (containers(), views());
        views[2].state = RUNNING;
        views[1].state = exited(3);
        assert_eq!(
            next(&containers, &views, false),
            [Action::GiveUp(0, "migrate".into())]
        );
        views[0].given_up = Some("migrate".into());
        assert_eq!(next(&containers, &views, false), [Action::StopTask(0)]);
    }

    #[test]
    fn an_essential_exit_ends_the_task_and_another_does_not() {
        let (containers, mut views) = (containers(), views());
        views[0].state = RUNNING;
        views[1].state = exited(0);
        views[2].state = exited(1);
        assert_eq!(next(&containers, &views, false), []);
        views[0].state = exited(0);
        assert_eq!(next(&containers, &views, false), [Action::StopTask(0)]);
    }

    #[test]
    fn a_container_stops_after_those_that_are_linked_to_it() {
        let linked = TaskDefinition::from_request(json!({
            "family": "f", "memory": "512", "containerDefinitions": [
                {"name": "web", "image": "i", "links": ["db"]}, {"name": "db", "image": "i"},
            ]
        }));
        let containers = linked.unwrap().container_definitions;
        let mut views = vec![View::default(), View::default()];
        assert_eq!(next(&containers, &views, false), [Action::Start(1)]);
        views.iter_mut().for_each(|view| view.state = RUNNING);
        assert_eq!(next(&containers, &views, true), [Action::Stop(0)]);
        views[0].state = exited(0);
        assert_eq!(next(&containers, &views, true), [Action::Stop(1)]);
    }

    #[test]
    fn containers_stop_in_reverse_order() {
        let (containers, mut views) = (containers(), views());
        for view in &mut views {
            view.state = RUNNING;
        }
        assert_eq!(next(&containers, &views, true), [Action::Stop(0)]);
        views[0].asked_to_stop = true;
        assert_eq!(next(&containers, &views, true), []);
        views[0].state = exited(143);
        assert_eq!(next(&containers, &views, true), [Action::Stop(1)]);
        views[1].state = exited(143);
        assert_eq!(next(&containers, &views, true), [Action::Stop(2)]);
    }

    #[test]
    fn one_that_was_asked_to_start_is_waited_for_before_those_below_it_stop() {
        let (containers, mut views) = (containers(), views());
        views[2].state = RUNNING;
        views[1].asked_to_start = true;
        assert_eq!(next(&containers, &views, true), []);
        assert!(!views[1].is_over(true));
        assert!(views[0].is_over(true));
    }
}

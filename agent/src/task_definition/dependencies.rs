//! The order that `dependsOn` and `links` give to the containers of a task.

use std::collections::HashMap;

use super::{Condition, ContainerDefinition};

/// The containers' indices, each after all that it depends on, otherwise in the order in which
/// they were written. The names of a cycle where there is one. Dependencies on containers that
/// don't exist are passed over: `validate` has refused them.
pub fn start_order(containers: &[ContainerDefinition]) -> Result<Vec<usize>, Vec<String>> {
    let index: HashMap<&str, usize> = containers
        .iter()
        .enumerate()
        .map(|(i, container)| (container.name.as_str(), i))
        .collect();
    let needs: Vec<Vec<usize>> = containers
        .iter()
        .map(|c| {
            let others = c.start_conditions();
            others
                .filter_map(|(name, _)| index.get(name).copied())
                .collect()
        })
        .collect();
    let mut order = Vec::with_capacity(containers.len());
    while order.len() < containers.len() {
        let ready = |i: &usize| {
            !order.contains(i)
                && needs
                    .get(*i)
                    .is_some_and(|all| all.iter().all(|n| order.contains(n)))
        };
        match (0..containers.len()).find(ready) {
            Some(next) => order.push(next),
            None => {
                let stuck = containers
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| !order.contains(i));
                return Err(stuck.map(|(_, container)| container.name.clone()).collect());
            }
        }
    }
    Ok(order)
}

impl ContainerDefinition {
    /// What must have happened to which others before it starts: what `dependsOn` says, and that those it is linked to
    /// have been started, as the ECS agent makes dependencies of links (`initializeContainerOrdering`).
    pub fn start_conditions(&self) -> impl Iterator<Item = (&str, Condition)> {
        let named = self.depends_on.iter();
        let named = named.map(|d| (d.container_name.as_str(), d.condition));
        let linked = self.naming.links.iter();
        named.chain(linked.map(|link| (link.container.as_str(), Condition::Start)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::TaskDefinition;
    use super::*;

    fn containers(depends: &[(&str, &[&str])]) -> Vec<ContainerDefinition> {
        let list: Vec<Value> = depends
            .iter()
            .map(|(name, on)| {
                let on: Vec<_> = on
                    .iter()
                    .map(|n| json!({"containerName": n, "condition": "START"}))
                    .collect();
                json!({"name": name, "image": "i", "memory": 32, "dependsOn": on})
            })
            .collect();
        super::super::parse::request(
            json!({"family": "f", "networkMode": "awsvpc", "containerDefinitions": list}),
        )
        .map(|definition: TaskDefinition| definition.container_definitions)
        .unwrap()
    }

    #[test]
    fn each_comes_after_what_it_depends_on() {
        let list = containers(&[
            ("web", &["migrate", "cache"]),
            ("migrate", &["cache"]),
            ("cache", &[]),
            ("x", &[]),
        ]);
        assert_eq!(start_order(&list), Ok(vec![2, 1, 0, 3]));
    }

    #[test]
    fn a_cycle_is_named() {
        let list = containers(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]);
        assert_eq!(start_order(&list), Err(vec!["a".into(), "b".into()]));
        assert_eq!(
            start_order(&containers(&[("a", &["a"])])),
            Err(vec!["a".into()])
        );
    }
}

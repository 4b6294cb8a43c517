//! The sizes that Fargate offers, and whether a definition fits one.

use super::{LaunchType, NetworkMode, TaskDefinition};

const GIB: u32 = 1024;

/// Whether Fargate offers this CPU (units) with this memory (MiB).
/// Source: the RegisterTaskDefinition reference, `cpu` and `memory`.
pub fn offers(cpu: u32, memory: u32) -> bool {
    let (from, to, step) = match cpu {
        256 => return [512, GIB, 2 * GIB].contains(&memory),
        512 => (1, 4, 1),
        1024 => (2, 8, 1),
        2048 => (4, 16, 1),
        4096 => (8, 30, 1),
        8192 => (16, 60, 4),
        16384 => (32, 120, 8),
        _ => return false,
    };
    memory.is_multiple_of(GIB)
        && (from..=to)
            .step_by(step)
            .any(|gib: u32| gib * GIB == memory)
}

/// The launch types that a valid definition can run with.
pub fn compatibilities(definition: &TaskDefinition) -> Vec<LaunchType> {
    let sized = matches!((definition.cpu, definition.memory), (Some(cpu), Some(memory)) if offers(cpu.0, memory.0));
    let mut all = vec![LaunchType::Ec2];
    if sized && definition.network_mode == NetworkMode::Awsvpc {
        all.push(LaunchType::Fargate);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::offers;

    #[test]
    fn the_table_is_that_of_ecs() {
        for (cpu, memory) in [
            (256, 512),
            (256, 2048),
            (512, 1024),
            (4096, 30720),
            (8192, 20480),
            (16384, 122880),
        ] {
            assert!(offers(cpu, memory), "{cpu} with {memory}");
        }
        for (cpu, memory) in [
            (256, 3072),
            (512, 512),
            (1024, 2049),
            (8192, 17408),
            (300, 512),
            (0, 0),
        ] {
            assert!(!offers(cpu, memory), "{cpu} with {memory}");
        }
    }
}

//! The end of a router, in order: the others learn of it, everything begun is finished, leases are given back, links end.

use crate::{core::Core, room::RoomCall};
use std::sync::Arc;

/// Ends a router. What outlives the grace period is left behind and logged.
pub(crate) async fn drain(core: &Arc<Core>) {
    core.begin_drain();
    let finish = async {
        // 1. The ring moves: from here on the rooms are others' to claim, and gateways send new calls there.
        core.register_draining().await;
        // 2. Lanes and rooms work off what they have and give their leases back; calls that come now are told to go elsewhere.
        core.stop_lanes.cancel();
        for queue in core.rooms.queues() {
            core.metrics.room_queue_depth.inc();
            if queue.send(RoomCall::Stop).await.is_err() {
                // It ended meanwhile, and has nothing left to do.
                core.metrics.room_queue_depth.dec();
            }
        }
        core.tasks.close();
        while core.rooms.any() {
            tokio::time::sleep(STEP).await;
        }
        // 3. Links end once their answers are on the way.
        core.deregister().await;
        core.links.close();
        core.stop.cancel();
        core.tasks.wait().await;
    };
    let grace = core.config.grace;
    if tokio::time::timeout(grace, finish).await.is_err() {
        tracing::warn!(left = core.tasks.len(), ?grace, "tasks of the router outlived the grace period");
        core.links.close();
        core.stop.cancel();
    }
}

/// Between two looks at the rooms that are left.
const STEP: std::time::Duration = std::time::Duration::from_millis(5);

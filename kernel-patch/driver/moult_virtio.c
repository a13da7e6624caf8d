// SPDX-License-Identifier: GPL-2.0-only
/*
 * Windows from virtio-pmem devices, for machines that have no ivshmem
 * (Firecracker, Cloud Hypervisor). The kernel's own virtio_pmem makes disks of
 * such devices; who wants windows says so, and there is no modalias for them.
 *
 * The flush queue is not used: nothing is ever written to a window.
 */

#include <linux/module.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <uapi/linux/virtio_ids.h>
#include <uapi/linux/virtio_pmem.h>

#include "moult.h"

static bool virtio_pmem;
module_param(virtio_pmem, bool, 0444);
MODULE_PARM_DESC(virtio_pmem,
		 "Take windows from virtio-pmem devices that no other driver has (default: off)");

static int moult_virtio_probe(struct virtio_device *vdev)
{
	struct moult_window_state *window;
	u64 start, size;

	if (!vdev->config->get)
		return -EINVAL;
	virtio_cread_le(vdev, struct virtio_pmem_config, start, &start);
	virtio_cread_le(vdev, struct virtio_pmem_config, size, &size);
	window = moult_window_add(MOULT_SOURCE_VIRTIO_PMEM, start, size);
	if (IS_ERR(window)) {
		dev_err(&vdev->dev, "%#llx, %llu bytes are no usable window: %pe\n",
			start, size, window);
		return PTR_ERR(window);
	}
	vdev->priv = window;
	return 0;
}

static void moult_virtio_remove(struct virtio_device *vdev)
{
	moult_window_remove(vdev->priv);
	virtio_reset_device(vdev);
}

static const struct virtio_device_id moult_virtio_ids[] = {
	{ VIRTIO_ID_PMEM, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

static struct virtio_driver moult_virtio_driver = {
	.driver = {
		.name = KBUILD_MODNAME,
		.owner = THIS_MODULE,
		.suppress_bind_attrs = true,
	},
	.id_table = moult_virtio_ids,
	.probe = moult_virtio_probe,
	.remove = moult_virtio_remove,
};

int moult_virtio_register(void)
{
	return virtio_pmem ? register_virtio_driver(&moult_virtio_driver) : 0;
}

void moult_virtio_unregister(void)
{
	if (virtio_pmem)
		unregister_virtio_driver(&moult_virtio_driver);
}

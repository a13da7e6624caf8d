// SPDX-License-Identifier: GPL-2.0-only
/*
 * Windows from QEMU's ivshmem-plain: BAR 2 is the host's memory backend. The
 * same id is used by ivshmem-doorbell, which has one too.
 */

#include <linux/module.h>
#include <linux/pci.h>

#include "moult.h"

#define IVSHMEM_VENDOR 0x1af4
#define IVSHMEM_DEVICE 0x1110
#define IVSHMEM_BAR 2

static bool pci = true;
module_param(pci, bool, 0444);
MODULE_PARM_DESC(pci, "Take windows from ivshmem devices, 1af4:1110 (default: on)");

static int moult_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct moult_window_state *window;
	int err = pcim_enable_device(pdev);

	if (err)
		return err;
	if (!(pci_resource_flags(pdev, IVSHMEM_BAR) & IORESOURCE_MEM)) {
		dev_err(&pdev->dev, "has no memory in BAR %d\n", IVSHMEM_BAR);
		return -ENODEV;
	}
	window = moult_window_add(MOULT_SOURCE_PCI,
				  pci_resource_start(pdev, IVSHMEM_BAR),
				  pci_resource_len(pdev, IVSHMEM_BAR));
	if (IS_ERR(window)) {
		dev_err(&pdev->dev, "BAR %d is no usable window: %pe\n",
			IVSHMEM_BAR, window);
		return PTR_ERR(window);
	}
	pci_set_drvdata(pdev, window);
	return 0;
}

static void moult_pci_remove(struct pci_dev *pdev)
{
	moult_window_remove(pci_get_drvdata(pdev));
}

static const struct pci_device_id moult_pci_ids[] = {
	{ PCI_DEVICE(IVSHMEM_VENDOR, IVSHMEM_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, moult_pci_ids);

static struct pci_driver moult_pci_driver = {
	.name = KBUILD_MODNAME,
	.id_table = moult_pci_ids,
	.probe = moult_pci_probe,
	.remove = moult_pci_remove,
	/* Unbinding through sysfs would not ask whether pages are in use. */
	.driver = { .suppress_bind_attrs = true },
};

int moult_pci_register(void)
{
	return pci ? pci_register_driver(&moult_pci_driver) : 0;
}

void moult_pci_unregister(void)
{
	if (pci)
		pci_unregister_driver(&moult_pci_driver);
}

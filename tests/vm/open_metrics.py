# SPDX-License-Identifier: Apache-2.0
"""A collector's view of what the adapter tells of itself."""
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def samples(text):
    """{(name, labels as sorted pairs): value}; ValueError where the text is no OpenMetrics."""
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The connection of everything here that talks to this OpenStack."""

import openstack


def connect():
    return openstack.connect(
        auth_url="http://127.0.0.1:5000/v3",
        username="admin",
        password="secret",
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
        region_name="RegionOne",
        compute_default_microversion="2.96",
    )

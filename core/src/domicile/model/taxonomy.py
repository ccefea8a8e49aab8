"""Which data categories there are: those of fideslang, and what an application adds to them.

The names below are the data categories of fideslang 3.1.4 by Ethyca, Inc. (github.com/ethyca/fideslang), under
CC BY 4.0 (creativecommons.org/licenses/by/4.0), without their descriptions. Its package holds back pydantic.

Whatever lies below a category of the list is that category, said more exactly, as fideslang has it, and needs no list:
``user.content.topic``. What lies nowhere, or a letter beside a name, is a slip until an application says otherwise.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher, get_close_matches
from typing import Final

from domicile.model.errors import ModelError

_FORM: Final = re.compile(r"(user|system)(\.[a-z][a-z0-9_]*)*")
_SLIP: Final = 0.8
"""How alike two last parts of names are that one of them is a slip of the pen: 0 not at all, 1 equal."""
FIDESLANG: Final = frozenset(
    """
    system system.authentication system.operations user user.account user.account.settings user.account.username
    user.authorization user.authorization.biometric user.authorization.credentials user.authorization.password
    user.behavior user.behavior.browsing_history user.behavior.media_consumption user.behavior.purchase_history
    user.behavior.search_history user.biometric user.biometric.fingerprint user.biometric.health
    user.biometric.retinal user.biometric.voice user.childrens user.contact user.contact.address
    user.contact.address.city user.contact.address.country user.contact.address.postal_code
    user.contact.address.state user.contact.address.street user.contact.email user.contact.fax_number
    user.contact.organization user.contact.phone_number user.contact.url user.content user.content.private
    user.content.public user.content.self_image user.criminal_history user.demographic
    user.demographic.age_range user.demographic.date_of_birth user.demographic.gender user.demographic.language
    user.demographic.marital_status user.demographic.political_opinion user.demographic.profile
    user.demographic.race_ethnicity user.demographic.religious_belief user.demographic.sexual_orientation
    user.device user.device.cookie user.device.cookie_id user.device.device_id user.device.ip_address
    user.financial user.financial.bank_account user.financial.credit_card user.government_id
    user.government_id.birth_certificate user.government_id.drivers_license_number
    user.government_id.immigration user.government_id.national_identification_number
    user.government_id.passport_number user.government_id.vehicle_registration user.health_and_medical
    user.health_and_medical.genetic user.health_and_medical.insurance_beneficiary_id
    user.health_and_medical.record_id user.job_title user.location user.location.imprecise user.location.precise
    user.name user.name.first user.name.last user.payment user.privacy_preferences user.sensor user.social
    user.telemetry user.unique_id user.unique_id.pseudonymous user.user_sensor user.workplace
    """.split()
)
_added: set[str] = set()


def check_form(category: str) -> None:
    """Raises ModelError for what is no category's name."""
    if not _FORM.fullmatch(category):
        raise ModelError(f"{category!r} is not a data category", remedy="a fideslang name such as user.contact.email")


def extend_taxonomy(*categories: str) -> None:
    """Add categories of the application's own, before the classes that use them. Raises ModelError for no name."""
    for category in categories:
        check_form(category)
    _added.update(categories)


def check_category(category: str, where: str) -> None:
    """Raises ModelError, with the nearest name, for a category that nobody knows."""
    known = FIDESLANG | _added
    parent, _, last = category.rpartition(".")
    above = parent
    while above.count(".") and above not in known:
        above = above.rpartition(".")[0]
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    slips = [each for each in siblings if SequenceMatcher(None, each, last).ratio() >= _SLIP]
    if category in known or (above.count(".") and not slips):
        return
    near = f"{parent}.{slips[0]}" if slips else next(iter(get_close_matches(category, sorted(known), 1, 0)), "user")
    raise ModelError(
        f"{category!r} is no data category of fideslang's; the nearest is {near}",
        where=where,
        remedy=f"{near}, or extend_taxonomy({category!r}) before the class, where it is meant",
    )

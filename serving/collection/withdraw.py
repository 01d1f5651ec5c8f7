"""Withdraws a contribution from the data collection, as the page does, while the page is not running.

    python -m serving.collection.withdraw --data=DIR --receipt=RECEIPT

`--id=ID` in place of the receipt withdraws a contribution whose receipt is lost; the audit log has the ids.
"""

from absl import flags

from ladnn_tf import command
from serving.collection.contribution import UnknownContributionError
from serving.collection.files import existing_folder
from serving.collection.store import Collection

USAGE = "python -m serving.collection.withdraw --data=DIR (--receipt=RECEIPT | --id=ID) [--database=URL]"


def main(argv: list[str]) -> int:
    """The command; `argv` is as `sys.argv`. A contribution that was withdrawn before is no error."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("data", None, "the data folder", required=True, flag_values=flag_values)
    flags.DEFINE_string(
        "database", None, "its database's address, unless that is in the folder", flag_values=flag_values
    )
    flags.DEFINE_string("receipt", None, "the receipt, as the page showed it", flag_values=flag_values)
    flags.DEFINE_string("id", None, "the contribution's id, if the receipt is lost", flag_values=flag_values)
    command.parse(flag_values, argv, USAGE)
    if bool(flag_values.receipt) == bool(flag_values.id):
        command.usage_error("give either --receipt or --id", USAGE)
    with Collection(existing_folder(flag_values.data), flag_values.database) as collection:
        try:
            if flag_values.receipt:
                withdrawal = collection.withdraw(flag_values.receipt)
            else:
                withdrawal = collection.withdraw_by_id(flag_values.id)
        except UnknownContributionError as error:
            raise ValueError(f"nothing was withdrawn: {error}") from error
    if withdrawal.images:
        count = "1 image" if withdrawal.images == 1 else f"{withdrawal.images} images"
        print(f"withdrawn: contribution {withdrawal.contribution} with {count}")
    else:
        print(f"contribution {withdrawal.contribution} was withdrawn before, at {withdrawal.withdrawn}")
    return 0


if __name__ == "__main__":
    command.run(main)

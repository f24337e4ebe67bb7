//! The file of the embedded default in another's hands.

use super::{CONFIG, Stage, books::Books};
use crate::house::House;
use billfish_testing::Sql;

#[test]
fn a_file_that_another_process_holds_is_waited_for_by_nobody_for_long_and_paid_from_afterwards() {
    let house = House::with(CONFIG);
    let file = house.data_dir().join("billfish.db");
    let mut stage = Stage::begin(house, Books::File(file.clone()));
    let mut other = Sql::file(&file);
    for _ in 0..2 {
        // Our crew may be in the middle of a gift.
        while other.try_execute("BEGIN EXCLUSIVE").is_err() {}
        stage.crew.be_refused(2);
        stage.chat();
        other.execute("COMMIT");
        stage.crew.give_more(3);
    }
    other.close();
    stage.end();
}
